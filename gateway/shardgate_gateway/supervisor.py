"""One listening socket, several worker processes, and somebody who looks after them.

- The supervisor binds the socket and every worker inherits it. A connection belongs to a worker only once it was
  accepted, so a worker that crashes takes down the requests it was answering and none that wait.
- Workers are fresh interpreters, not forks: the libraries in them run threads.
- A worker that dies is replaced, at once after a long life, later and later after short ones. Where a first worker does
  not even come up, the whole gateway ends, with its exit status: most likely a setting can't be used.
- SIGTERM or SIGINT drains: the socket closes, every worker finishes what it is doing. A second one kills.
- SIGHUP changes nothing: token and key files are read again when they change, and all else needs a restart. Only where
  it says that the terminal of the gateway is gone, the gateway ends as by SIGTERM.
- Workers end when the supervisor does, also by SIGKILL: the kernel tells them (`PR_SET_PDEATHSIG`). Then the folder in
  which they counted stays; the next supervisor removes it. A lock, which they all have, says whether one is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_gateway import metrics
from shardgate_gateway.confidential import hide
from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.etl.local.process import is_for_workers
from shardgate_gateway.log_format import set_up_logging
from shardgate_gateway.settings import MIN_KEY_BYTES
from shardgate_gateway.start_log import log_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.settings import ServeSettings, Settings

log = logging.getLogger(__name__)

BACKLOG = 1024
LONG_LIFE_SECONDS = 30.0
BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 10.0
KILL_SECONDS = 10.0
"""After the time to drain: until a worker that still lives is killed."""
METRICS_PREFIX = "shardgate-metrics-"
YOUNG_SECONDS = 60.0
"""A folder that is younger may be without its lock for a moment."""


def run(settings: Settings, config: Path | None = None) -> int:
    """Serve until told to stop; returns the exit status.

    Args:
        settings: All of them.
        config: The file that some of them come from, for the log.

    Raises:
        LocalStorageError: The address can't be listened on.
    """
    hide(is_for_workers)
    set_up_logging(settings.log)
    with listen(settings.serve) as listener, metrics_folder() as (folder, lock):
        log_start(settings, config, address_of(listener))
        began = time.monotonic()
        status = asyncio.run(Supervisor(settings, listener, folder, lock).run())
        log.info("stopped with status %d, after %.0f seconds", status, time.monotonic() - began)
        return status


@contextlib.contextmanager
def metrics_folder() -> Iterator[tuple[str, int]]:
    """A folder for the workers' counts, and the descriptor that says that it is in use. Raises LocalStorageError."""
    try:
        _remove_unused_folders()
        temporary = tempfile.TemporaryDirectory(prefix=METRICS_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise LocalStorageError(
            f"can't make a folder for metrics: {error}", hint="make room in the folder for temporary files, see TMPDIR"
        ) from error
    with temporary as folder:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder, lock
        finally:
            os.close(lock)


def _remove_unused_folders() -> None:
    """Remove what supervisors left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{METRICS_PREFIX}*"):
        with contextlib.suppress(OSError):  # another supervisor is quicker, or it is another user's
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                status = os.fstat(lock)
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > YOUNG_SECONDS:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def listen(serve: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    try:
        return socket.create_server((serve.host, serve.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise LocalStorageError(
            f"can't listen on {serve.host} port {serve.port}: {error.strerror}",
            hint="see the settings serve.host and serve.port; --port 0 takes a free one",
        ) from error


def address_of(listener: socket.socket) -> str:
    """The URL of what is listened on."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _has_terminal() -> bool:
    return any(os.isatty(descriptor) for descriptor in range(3))


def _with_signing_key(settings: Settings) -> Settings:
    """All workers must accept what one of them signed."""
    auth = settings.auth
    if auth.signing_key or auth.signing_key_file:
        return settings
    return settings.model_copy(
        update={"auth": auth.model_copy(update={"signing_key": secrets.token_hex(MIN_KEY_BYTES)})}
    )


class Supervisor:
    """Keeps the workers running.

    Args:
        settings: Handed to every worker.
        listener: The socket they share.
        metrics_folder: Where they count, together.
        metrics_lock: Held by whoever uses that folder.
    """

    def __init__(self, settings: Settings, listener: socket.socket, metrics_folder: str, metrics_lock: int) -> None:
        self._settings = _with_signing_key(settings)
        self._listener = listener
        self._metrics_folder = metrics_folder
        self._metrics_lock = metrics_lock
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._status = 0
        self._had_terminal = _has_terminal()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, f"{number.name} came")
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        count = self._settings.serve.workers
        ready = [loop.create_future() for _ in range(count)]
        keepers = [loop.create_task(self._keep(number, ready[number])) for number in range(count)]
        announcer = loop.create_task(self._announce(ready))
        await asyncio.gather(*keepers)
        announcer.cancel()
        return self._status

    async def _announce(self, ready: list[asyncio.Future[None]]) -> None:
        await asyncio.gather(*ready)
        print(f"shardgate listening on {address_of(self._listener)}", flush=True)
        log.info("ready: all workers answer requests")

    async def _keep(self, number: int, ready: asyncio.Future[None]) -> None:
        """Run worker after worker in one place until the gateway stops."""
        backoff = BACKOFF_SECONDS
        while not self._stopping.is_set():
            born = time.monotonic()
            status = await self._live(number, ready)
            metrics.forget_worker(self._metrics_folder, number)
            if self._stopping.is_set():
                return
            if not ready.done():
                self._status = status or 1
                self._stop(f"worker {number} {_end_of(status)} before it was ready")
                return
            backoff = BACKOFF_SECONDS if time.monotonic() - born > LONG_LIFE_SECONDS else backoff
            log.error("worker %d %s; starting another", number, _end_of(status))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _live(self, number: int, ready: asyncio.Future[None]) -> int:
        """One worker, from its start to its end."""
        receiving, sending = os.pipe()
        try:
            worker = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "shardgate_gateway.app"],
                *["--listener", str(self._listener.fileno()), "--ready", str(sending), "--parent", str(os.getpid())],
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(self._listener.fileno(), sending, self._metrics_lock),
                env=os.environ | {metrics.MULTIPROCESS_DIR: self._metrics_folder, metrics.WORKER_NUMBER: str(number)},
                process_group=0,
            )
        except OSError as error:
            os.close(receiving)
            log.error("can't start worker %d: %s", number, error.strerror)  # noqa: TRY400 (the cause is all of it)
            return 1
        finally:
            os.close(sending)
        self._workers[number] = worker
        if self._stopping.is_set():
            worker.terminate()
        asyncio.get_running_loop().add_reader(receiving, self._heard, receiving, ready)
        with contextlib.suppress(ConnectionError):
            await worker.communicate(self._settings.model_dump_json().encode())
        return await worker.wait()

    def _heard(self, receiving: int, ready: asyncio.Future[None]) -> None:
        """A worker says that it answers requests, or ended before it did."""
        if os.read(receiving, 1) and not ready.done():
            ready.set_result(None)
        asyncio.get_running_loop().remove_reader(receiving)
        os.close(receiving)

    def _hang_up(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._stop("SIGHUP came, and its terminal is gone")
        else:
            log.info("SIGHUP came: token and key files are read when they change, all other settings at a start")

    def _stop(self, cause: str) -> None:
        again = self._stopping.is_set()
        self._stopping.set()
        running = sum(worker.returncode is None for worker in self._workers.values())
        if running or not again:
            log.info("%s: %s, %d workers run", "killing" if again else "stopping", cause, running)
        self._listener.close()
        for worker in self._workers.values():
            if worker.returncode is None:
                worker.send_signal(signal.SIGKILL if again else signal.SIGTERM)
        if not again:
            serve = self._settings.serve
            patience = serve.linger_seconds + serve.drain_seconds + KILL_SECONDS
            cause = f"{patience:g} seconds to drain are over"
            asyncio.get_running_loop().call_later(patience, self._stop, cause)


def _end_of(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
