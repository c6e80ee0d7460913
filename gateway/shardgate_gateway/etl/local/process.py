"""One runtime as a child process of this gateway process.

It inherits a minimal environment: user code has no business with the credentials that the gateway was started with. It
writes into a pipe to its log's writer. It exits when this process dies; the kernel tells us when it does. It has ended
when all that it started has ended, too, and its last words are in its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from typing import TYPE_CHECKING, ClassVar

from shardgate_gateway.etl.local.orphans import kill_orphans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from shardgate_gateway.etl.local.logfile import LogFile

STOP_SECONDS = 5.0
"""Between asking a runtime to stop and killing it."""
WRITER_SECONDS = 2.0
"""For the log's writer to end when all who could write are dead. Otherwise one of them could not be found."""
POLL_SECONDS = 0.005
KEPT = ("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
KEPT_PREFIXES = ("LC_", "PYTHON", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "XDG_")

log = logging.getLogger(__name__)


def is_for_workers(name: str) -> bool:
    """Whether user code may see this variable: it says where programs and libraries are, or how they compute."""
    return name in KEPT or name.startswith(KEPT_PREFIXES)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment user code may see."""
    return {name: value for name, value in environment.items() if is_for_workers(name)}


class RuntimeProcess:
    """A started runtime.

    Started from the event loop's own thread: a child that asks to be killed with its parent is killed when the
    *thread* that started it ends.
    """

    _living: ClassVar[set[int]] = set()

    def __init__(self, command: Sequence[str], folder: Path, log_file: LogFile) -> None:
        source, output = os.pipe()
        try:
            self._log_writer = log_file.start_writer(source, worker_environment(os.environ))
            self._process, self._pidfd = self._start(command, folder, output)
        finally:
            os.close(source)
            os.close(output)
        self.pid = self._process.pid
        self._living.add(self.pid)
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._burial: asyncio.Task[None] | None = None
        self._loop.add_reader(self._pidfd, self._reap)

    def _start(self, command: Sequence[str], folder: Path, output: int) -> tuple[subprocess.Popen[bytes], int]:
        """The process, and the descriptor that tells of its end; neither is left where one of them can't be had."""
        started = [self._log_writer]
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=worker_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            started.append(process)
            return process, os.pidfd_open(process.pid)
        except OSError:
            for process in started:
                process.kill()
                process.wait()
            raise

    @property
    def running(self) -> bool:
        return not self._exited.is_set()

    @property
    def was_killed(self) -> bool:
        """Ended by what others do to processes (the kernel out of memory, an operator), not by what it did itself."""
        return self._process.returncode in {-signal.SIGKILL, -signal.SIGTERM}

    def describe_exit(self) -> str:
        """How it ended: "exit status 1", "killed by SIGSEGV"."""
        code = self._process.returncode
        return f"exit status {code}" if code is None or code >= 0 else f"killed by {signal.Signals(-code).name}"

    async def wait(self) -> None:
        await self._exited.wait()

    async def stop(self) -> None:
        """End it and its workers: by SIGTERM, and after a while by SIGKILL."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), STOP_SECONDS)
        if self.running:
            self._signal(signal.SIGKILL)
            await self._exited.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            # Not yet reaped, so the process group is still its own. SIGTERM is for the parent, who tells its workers.
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number is signal.SIGKILL else os.kill)(self.pid, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # workers that outlive their parent serve nobody
        self._process.wait()
        self._living.discard(self.pid)
        self._burial = self._loop.create_task(self._bury())

    async def _bury(self) -> None:
        await kill_orphans(self._living)
        deadline = self._loop.time() + WRITER_SECONDS
        while self._log_writer.poll() is None:
            if self._loop.time() > deadline:
                self._log_writer.kill()
            await asyncio.sleep(POLL_SECONDS)
        self._exited.set()
        log.info("runtime %s ended: %s", self.pid, self.describe_exit())
