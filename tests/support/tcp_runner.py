"""Workers behind TCP sockets, as those of pods are reached: no ring, and the shard comes by HTTP."""

# ruff: noqa: A002 - the interface's names

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shardgate_gateway.etl.connection import StreamConnection
from shardgate_gateway.etl.runner import Runner, WorkerConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime_process import Runtime

    from shardgate import wire
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.stores.base import ObjectMeta

SILENCE_SECONDS = 60.0


class TcpRunner(Runner):
    """Hands jobs to runtimes that the test started with `listen="tcp:127.0.0.1:0"`, by the id of their transform."""

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = runtimes

    async def connect(self, record: TransformRecord, job: wire.Job, input: Any) -> WorkerConnection:
        host, _, port = self._runtimes[record.id].status()["listen"].removeprefix("tcp:").rpartition(":")
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        connection = StreamConnection(sock, SILENCE_SECONDS)
        try:
            await connection.start(replace(job, ring=False), None)
        except BaseException:
            connection.close()
            raise
        return connection

    def workers(self, record: TransformRecord) -> int:
        return 1

    def waiting(self, record: TransformRecord) -> AbstractContextManager[None]:
        return nullcontext()

    def check(self, manifest: wire.Manifest, options: Any) -> None: ...
    async def ensure(self, record: TransformRecord) -> None: ...
    async def start(self, record: TransformRecord) -> None: ...
    async def status(self, id: str) -> Any: ...
    async def stop(self, record: TransformRecord) -> None: ...
    async def remove(self, id: str) -> None: ...
    async def logs(self, id: str, *, tail: int) -> str:
        return ""

    async def follow(self, id: str, *, tail: int) -> Any:
        yield b""

    async def aclose(self) -> None: ...


@dataclass
class RemoteReading:
    """Stands for a reading of an object that no file or memory of this machine has, so that workers fetch it."""

    meta: ObjectMeta
    content: None = None
    file: None = None

    async def verified_file(self) -> None: ...
