"""A gateway process reduced to its cache: started by tests to be killed by them.

It reads one JSON command a line and answers each when it is done; commands run at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import uvloop
from cache_lab import UPSTREAM, FolderStore, lab_settings, lab_source, read

from shardgate_gateway.cache.cache import Cache
from shardgate_gateway.errors import GatewayError


class CacheProcess:
    """The test's end of it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict]] = {}
        self._reader = asyncio.ensure_future(self._listen())

    @classmethod
    async def start(cls, store: FolderStore, cache: Path, *, uid: int | None = None, **options) -> CacheProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            json.dumps({"store": str(store.folder), "cache": str(cache), **options}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started = cls(process)
        await started.ask("ping")
        return started

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer)
        for waiting in self._waiting.values():
            waiting.set_exception(ProcessLookupError("the process is gone"))
            waiting.exception()

    def send(self, op: str, **arguments) -> asyncio.Future[dict]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
        return self._waiting[number]

    async def ask(self, op: str, **arguments) -> dict:
        return await self.send(op, **arguments)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reader

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class _Server:
    def __init__(self, store: str, cache: str, settings: dict | None = None, **options) -> None:
        self.store = FolderStore(Path(store), **options)
        self.cache = Cache(lab_settings(Path(cache), **(settings or {})), UPSTREAM)

    async def ping(self) -> dict:
        return {"pid": os.getpid()}

    async def get(self, key: str, start: int = 0, end: int | None = None) -> dict:
        reading = await self.cache.open(lab_source(self.store, key))
        data = await read(reading, start, end)
        reading.aclose()
        return {"sha": hashlib.sha256(data).hexdigest(), "size": len(data), "state": reading.state}

    async def lookup(self, key: str) -> dict:
        reading = self.cache.lookup(lab_source(self.store, key))
        return {"sha": hashlib.sha256(await read(reading)).hexdigest() if reading else None}

    async def invalidate(self, key: str) -> dict:
        await self.cache.invalidate(lab_source(self.store, key))
        return {}

    async def counters(self) -> dict:
        counters = self.cache.counters
        return {name: getattr(counters, name) for name in counters.__dataclass_fields__}

    async def answer(self, command: dict) -> None:
        number, op = command.pop("id"), command.pop("op")
        try:
            result = await getattr(self, op)(**command)
        except GatewayError as error:
            result = {"error": error.code, "message": error.message}
        print(json.dumps({"id": number, **result}), flush=True)


async def _serve(options: dict) -> None:
    server = _Server(**options)
    await server.cache.start()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with asyncio.TaskGroup() as group:
        async for line in commands:
            group.create_task(server.answer(json.loads(line)))
    await server.cache.aclose()


if __name__ == "__main__":
    uvloop.run(_serve(json.loads(sys.argv[1])))
