"""Workers as processes of this machine: the embedded default, and what a gateway without a cluster uses.

Each transform has one runtime here (`runtime.py`), a parent that loaded the package and forks workers, each of which
takes one connection at a time. A connection waits in the listening socket's queue until a worker is idle; as many as
there are workers may be in there, the others stand in line before it (`etl/line.py`), and how many is bounded. A shard
that lies in a cache file goes to the worker as an open descriptor.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_gateway import metrics
from shardgate_gateway.errors import Busy, PackageInvalid, WorkerLost
from shardgate_gateway.etl.connection import StreamConnection
from shardgate_gateway.etl.container.local import MODULE, LocalContainers, check_local
from shardgate_gateway.etl.generation_name import OPTIONS_VARIABLE, options_digest
from shardgate_gateway.etl.line import own_place
from shardgate_gateway.etl.local import limits
from shardgate_gateway.etl.local.interpreter import Interpreter
from shardgate_gateway.etl.local.logfile import LogFile
from shardgate_gateway.etl.local.rundir import PACKAGE, SOCKET, RunDir
from shardgate_gateway.etl.local.runtime import Launch, LocalRuntime
from shardgate_gateway.etl.runner import Runner, RunnerState, RunnerStatus, WorkerConnection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from shardgate import wire
    from shardgate_gateway.cache.reader import FileSpan
    from shardgate_gateway.etl.options import TransformOptions
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.settings import EtlSettings

BUSY_SECONDS = 2.0
"""After which a refused request is told to come again."""
STALL_GRACE_SECONDS = 5.0
"""A runtime ends a sample that takes too long, and names it. The connection has its own, later clock, if that fails."""


class LocalRunner(Runner):
    """Runtimes below a state folder, shared with the other gateway processes that use it.

    Args:
        settings: Interpreter, workers, limits and times.
        state_dir: `run/` and `logs/` are kept here.
        package: Gives a transform's package, checked against its digest.
    """

    def __init__(self, settings: EtlSettings, state_dir: Path, package: Callable[[str], Awaitable[bytes]]) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self._package = package
        self._interpreter = Interpreter(settings.python)
        self._containers = LocalContainers(settings)
        self._runtimes: dict[str, LocalRuntime] = {}

    def check(self, manifest: wire.Manifest, options: TransformOptions) -> None:
        if manifest.kind == "container":
            check_local(manifest)
        else:
            self._interpreter.check(manifest)
        if options.secrets or options.image:
            wanted = "secrets" if options.secrets else "image"
            raise PackageInvalid(
                f"transform {manifest.name!r} asks for {wanted}, and its workers are processes of this machine",
                hint=f"leave {wanted} out, or use a gateway whose etl.runner is kubernetes",
            )

    async def ensure(self, record: TransformRecord) -> None:
        runtime = self._runtime(record.id)
        if runtime.is_ready:  # before the command is put together, for which limits are read from many files
            return
        runtime.workers = record.options.workers or self._settings.workers or limits.processors()
        command = self._command(record, runtime)
        await runtime.ensure(Launch(command, record.digest, lambda: self._package(record.id)))

    async def start(self, record: TransformRecord) -> None:
        self._runtime(record.id).allow()
        await self.ensure(record)

    def workers(self, record: TransformRecord) -> int:
        return max(self._runtime(record.id).workers, 1)

    @contextmanager
    def waiting(self, record: TransformRecord) -> Iterator[None]:
        runtime = self._runtime(record.id)
        if runtime.waiting >= self._settings.max_waiting and not own_place().is_awaited:
            raise Busy(
                f"{runtime.waiting} requests wait for a worker of {record.id}",
                hint="add workers, or raise etl.max_waiting",
                retry_after=BUSY_SECONDS,
            )
        runtime.waiting += 1
        metrics.ETL_WAITING.inc()
        try:
            yield
        finally:
            runtime.waiting -= 1
            metrics.ETL_WAITING.dec()

    async def connect(self, record: TransformRecord, job: wire.Job, input: FileSpan | None) -> WorkerConnection:  # noqa: A002
        runtime = self._runtime(record.id)
        if input is not None and record.manifest.container is None:
            job = replace(job, url="", token="", input_offset=input.offset, input_size=input.length)
        with self.waiting(record):
            async with runtime.line.turn(runtime.workers, wants_more=job.stages > 0):
                return await self._hand_over(record, runtime, job, input)

    async def status(self, id: str) -> RunnerStatus:  # noqa: A002
        folder = RunDir(self._state_dir / "run" / id)
        try:
            stopped, there, said = folder.stopped, folder.path.exists(), folder.status()
        except OSError as error:  # one folder that can't be looked into is the trouble of one transform
            return RunnerStatus("failed", f"its run folder can't be read: {error.strerror}")
        if stopped:
            return RunnerStatus("stopped", "somebody stopped it", f"`shardgate etl start {id}` starts it again")
        if said is None:
            return RunnerStatus("starting" if there else "pending")
        state: RunnerState = _STATES[said.state]
        if state in {"starting", "ready"} and not _exists(said.pid):
            return RunnerStatus("idle", "its process ended; the next request starts it again")
        workers = self._runtime(id).workers if state == "ready" else 0
        since = datetime.fromtimestamp(said.since, UTC) if said.since else None
        return RunnerStatus(state, said.message, said.hint, workers, since)

    async def stop(self, record: TransformRecord) -> None:
        await self._runtime(record.id).stop()

    async def supersede(self, id: str, *, superseded: bool) -> None:  # noqa: A002
        """All gateway processes of this machine share the runtime, and this note for it."""
        await asyncio.to_thread(self._runtime(id).folder.set_superseded, superseded)

    async def remove(self, id: str) -> None:  # noqa: A002
        await self._runtime(id).remove()
        del self._runtimes[id]

    async def logs(self, id: str, *, tail: int) -> str:  # noqa: A002
        return await asyncio.to_thread(self._log_file(id).tail, tail)

    def follow(self, id: str, *, tail: int) -> AsyncGenerator[bytes]:  # noqa: A002
        return self._log_file(id).follow(tail)

    async def aclose(self) -> None:
        await self._containers.aclose()
        await asyncio.gather(*(runtime.aclose() for runtime in self._runtimes.values()))

    def _runtime(self, transform_id: str) -> LocalRuntime:
        if transform_id not in self._runtimes:
            folder = RunDir(self._state_dir / "run" / transform_id)
            log_file = self._log_file(transform_id)
            self._runtimes[transform_id] = LocalRuntime(transform_id, folder, log_file, self._settings.start_timeout)
        return self._runtimes[transform_id]

    def _log_file(self, transform_id: str) -> LogFile:
        return LogFile(self._state_dir / "logs" / f"{transform_id}.log")

    def _command(self, record: TransformRecord, runtime: LocalRuntime) -> list[str]:
        settings, workers, folder = self._settings, runtime.workers, runtime.folder.path
        memory = record.options.memory_bytes or settings.memory_bytes or limits.memory_per_worker(workers)
        options = {
            "package": folder / PACKAGE,
            "transform-id": record.id,
            "listen": f"unix:{folder / SOCKET}",
            "run-dir": folder,
            "workers": workers,
            "memory-bytes": memory,
            "ring-bytes": settings.ring_bytes,
            "idle-seconds": settings.idle_seconds,
            "superseded-idle-seconds": min(settings.idle_seconds, settings.superseded_idle_seconds),
            "stall-seconds": settings.progress_timeout,
            "parent": os.getpid(),
        }
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        # -P: what user code leaves in its working directory is never imported in place of a library.
        module = "shardgate_runtime" if record.manifest.container is None else MODULE
        variables = dict(record.options.env)
        if record.manifest.container is None:
            variables[OPTIONS_VARIABLE] = options_digest(record.options)
        setting = ("env", *(f"{name}={value}" for name, value in variables.items()))
        return [*setting, self._interpreter.path, "-P", "-m", module, *flags]

    async def _hand_over(
        self, record: TransformRecord, runtime: LocalRuntime, job: wire.Job, file: FileSpan | None
    ) -> WorkerConnection:
        connect = self._connect if record.manifest.container is None else self._containers.connect
        try:
            return await connect(runtime, record, job, file)
        except OSError:  # it ended since `ensure`, idle or killed
            runtime.doubt()
            await self.ensure(record)
            try:
                return await connect(runtime, record, job, file)
            except OSError as error:
                raise WorkerLost(f"the runtime of {record.id} does not listen: {error}") from error

    async def _connect(
        self, runtime: LocalRuntime, record: TransformRecord, job: wire.Job, file: FileSpan | None
    ) -> WorkerConnection:
        sock = await runtime.connect()
        timeout = max(self._settings.progress_timeout, record.manifest.sample_timeout)
        connection = StreamConnection(sock, timeout + STALL_GRACE_SECONDS, self._settings.ring_bytes)
        try:
            with runtime.ending_stopped():
                await connection.start(job, file.fd if file is not None else None)
        except BaseException:
            runtime.doubt()
            connection.close()
            raise
        return connection


_STATES: dict[str, RunnerState] = {
    "starting": "starting",
    "ready": "ready",
    "failed": "failed",
    "stopped": "idle",
    "damaged": "failed",
}


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
