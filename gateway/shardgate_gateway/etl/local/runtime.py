"""One transform's runtime on this machine, as one gateway process sees it.

All gateway processes of a machine share one runtime per transform. Whoever needs it first starts it, under a lock of
the run folder, and owns it: it ends with its owner. The others find it running and connect. If it dies, the next that
needs it starts it again, so the death of a gateway process costs the others a restart and no more.

A start that failed is remembered in status.json for a moment, for all processes: eight readers of a broken transform
get one start and eight times its error. A runtime that dies again and again soon after its start waits ever longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardgate_gateway.errors import Conflict, LocalStorageError, TransformStartError
from shardgate_gateway.etl.line import WaitingLine
from shardgate_gateway.etl.local.process import STOP_SECONDS, RuntimeProcess
from shardgate_gateway.etl.local.stopped import are_stopped, ending_stopped

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from shardgate_gateway.etl.local.logfile import LogFile
    from shardgate_gateway.etl.local.rundir import RunDir

POLL_SECONDS = 0.02
FAILURE_SECONDS = 5.0
"""How long a failed start answers for others."""
STABLE_SECONDS = 10.0
"""A runtime that lived this long is restarted at once."""
BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 5.0
START_TRIES = 3
"""A runtime that somebody killed while it started says nothing about its transform, so it is started again."""
LOG_LINES = 20
"""Of a runtime that died without a word, in its error."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """How a runtime is started.

    Attributes:
        command: Program and arguments.
        digest: SHA-256 of the package.
        package: Gives it.
    """

    command: Sequence[str]
    digest: str
    package: Callable[[], Awaitable[bytes]]


class LocalRuntime:
    """Starts, finds, stops.

    Args:
        transform_id: For messages.
        folder: Its run folder.
        log_file: Where it writes.
        start_timeout: Seconds until it must be ready.
    """

    def __init__(self, transform_id: str, folder: RunDir, log_file: LogFile, start_timeout: float) -> None:
        self.folder = folder
        self.log_file = log_file
        self.waiting = 0
        self.line = WaitingLine()
        self.workers = 0
        self._id = transform_id
        self._timeout = start_timeout
        self._process: RuntimeProcess | None = None
        self._ready = False
        self._starting: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self._quick_deaths = 0

    @property
    def is_ready(self) -> bool:
        """Whether it is there, as far as this process knows."""
        return self._ready and (self._process is None or self._process.running)

    async def ensure(self, launch: Launch) -> None:
        """Return when it is ready, starting it if need be; concurrent callers share one start.

        Raises:
            TransformStartError: It can't start.
            Conflict: Somebody stopped it.
            LocalStorageError: The disk of the run folder fails.
        """
        if self.is_ready:
            return
        self._ready = False
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start(launch))
        await asyncio.shield(self._starting)

    async def connect(self) -> socket.socket:
        """A connection, which may have to wait for a place in the queue.

        Raises:
            OSError: Nobody listens; `ensure` will look again.
        """
        while True:
            try:
                return self.folder.connect()
            except BlockingIOError:
                await asyncio.sleep(POLL_SECONDS)
            except OSError:
                self._ready = False
                raise

    def ending_stopped(self) -> contextlib.AbstractContextManager[None]:
        """For the time that somebody waits for it: kill it where it is stopped and will never answer."""
        return ending_stopped(self._pids_if_stopped)

    def _pids_if_stopped(self) -> list[int]:
        """Its processes, none where its parent is not stopped: they are looked for among all of the machine."""
        status = self.folder.status()
        if status is not None and not are_stopped([status.pid]):
            return []
        return self.folder.runtime_pids()

    def doubt(self) -> None:
        """A connection ended before its worker took the job: look again before the next one."""
        self._ready = False

    def allow(self) -> None:
        """Let it be started again after a `stop`. Raises LocalStorageError."""
        with self._disk():
            self.folder.set_stopped(False)

    async def stop(self) -> None:
        """End the runtime, whichever process started it, until somebody starts it again.

        Raises:
            LocalStorageError: The disk of the run folder fails.
        """
        self._ready = False
        with self._disk():
            self.folder.create()
            self.folder.set_stopped(True)
            async with self._start_lock():
                await self._end()
                self.folder.write_status("stopped", "stopped on request")
                self.folder.remove_package()

    async def remove(self) -> None:
        """End the runtime and delete its folder and its log. Raises LocalStorageError."""
        self._ready = False
        with self._disk():
            self.folder.create()
            async with self._start_lock():
                await self._end()
                self.log_file.remove()
                await asyncio.to_thread(self.folder.remove)

    async def aclose(self) -> None:
        """End the runtime if this process started it."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()

    async def _start(self, launch: Launch) -> None:
        deadline = asyncio.get_running_loop().time() + self._timeout
        # What is said of a start that failed is said under the lock, too: the next one may have begun otherwise.
        with self._disk():
            async with self._start_lock(deadline):
                await self._start_locked(launch, deadline)

    async def _start_locked(self, launch: Launch, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                if self.folder.stopped:
                    raise Conflict(
                        f"transform {self._id} was stopped", hint=f"`shardgate etl start {self._id}` starts it again"
                    )
                if await self._joins_a_running_one():
                    if self._process is not None and not self._process.running:
                        self._process = None  # another process has it now
                    self._ready = True
                    return
                self._raise_recent_failure()
                await self._wait_after_quick_deaths()
                await self._spawn(launch)
        except TimeoutError:
            raise self._failed(
                f"{self._id} was not ready after {self._timeout:g} s", "see its log, or raise etl.start_timeout"
            ) from None

    @contextlib.asynccontextmanager
    async def _start_lock(self, deadline: float = math.inf) -> AsyncIterator[None]:
        while True:
            self.folder.create()  # who had the lock before may have removed the transform
            with self.folder.try_start_lock() as locked:
                if locked:
                    yield
                    return
            if asyncio.get_running_loop().time() > deadline:
                raise TransformStartError(
                    f"another process has been starting or stopping {self._id} for {self._timeout:g} s",
                    hint="see its log, or raise etl.start_timeout",
                )
            await asyncio.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """What the disk of the run folder refuses is no fault of the transform."""
        try:
            yield
        except OSError as error:
            raise LocalStorageError(
                f"the run folder of {self._id} can't be used: {error.strerror or error}",
                hint="see that the disk of state.dir has space and may be written",
            ) from error

    async def _joins_a_running_one(self) -> bool:
        """Whether another process' runtime is there and ready. One that is about to end is waited for."""
        with self.ending_stopped():
            while self.folder.runtime_lives():
                status = self.folder.status()
                if status is not None and status.state == "damaged":
                    await self._stop_foreign()
                elif status is not None and status.state == "ready" and self.folder.answers():
                    return True
                await asyncio.sleep(POLL_SECONDS)
        return False

    def _raise_recent_failure(self) -> None:
        status = self.folder.status()
        # The distance, for a clock that was set back would make the failure one of the future.
        if status is not None and status.state == "failed" and abs(time.time() - status.since) < FAILURE_SECONDS:
            raise TransformStartError(status.message, hint=status.hint)

    async def _wait_after_quick_deaths(self) -> None:
        quick = time.monotonic() - self._started_at < STABLE_SECONDS
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        if self._quick_deaths > 1:
            await asyncio.sleep(min(BACKOFF_SECONDS * 2.0 ** (self._quick_deaths - 2), MAX_BACKOFF_SECONDS))

    async def _spawn(self, launch: Launch) -> None:
        if not await asyncio.to_thread(self.folder.has_package, launch.digest):
            await asyncio.to_thread(self.folder.write_package, await launch.package())
        for tries_left in reversed(range(START_TRIES)):
            self.folder.forget_status()
            process = self._process = RuntimeProcess(launch.command, self.folder.work, self.log_file)
            try:
                self._ready = await self._comes_up(process)
            except asyncio.CancelledError:
                await asyncio.shield(process.stop())
                raise
            if self._ready:
                self._started_at = time.monotonic()
                return
            if not (process.was_killed and tries_left):
                message = f"{self._id} ended while it started: {process.describe_exit()}"
                raise self._failed(message, self._last_words())

    async def _comes_up(self, process: RuntimeProcess) -> bool:
        """Whether it is ready, or has ended without a word; raises with its word if it said why."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            running = process.running  # asked first: what it wrote before it ended counts
            status = self.folder.status()
            if status is not None and status.state in {"failed", "damaged"}:
                await process.stop()
                raise TransformStartError(status.message, hint=status.hint)
            if not running or (status is not None and status.state == "ready"):
                return running

    def _failed(self, message: str, hint: str) -> TransformStartError:
        with contextlib.suppress(OSError):  # whoever asks next starts it once more, and hears the same
            self.folder.write_status("failed", message, hint)
        return TransformStartError(message, hint=hint)

    def _last_words(self) -> str:
        words = self.log_file.tail(LOG_LINES).strip()
        return f"its last words:\n{words}" if words else "it wrote nothing; was it out of memory?"

    async def _end(self) -> None:
        """Called with the start lock."""
        if self._process is not None and self._process.running:
            await self._process.stop()
        await self._stop_foreign()

    async def _stop_foreign(self) -> None:
        """Called with the start lock, so no other runtime of this folder comes while the old one goes."""
        deadline = time.monotonic() + STOP_SECONDS
        asked: set[int] = set()
        while self.folder.runtime_lives():
            # Looked up each time: one that is just starting may not be there yet at the first look.
            pids = self.folder.runtime_pids()
            late = time.monotonic() > deadline
            for pid in pids if late else set(pids) - asked:
                _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
            asked.update(pids)
            await asyncio.sleep(POLL_SECONDS)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
