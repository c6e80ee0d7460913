"""The gateway's ETL without HTTP: real cache, database, package store and runtimes, and a folder as the bucket."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardgate import wire
from shardgate.capture import capture
from shardgate_gateway.cache.cache import Cache
from shardgate_gateway.cache.source import Freshness, StoreSource
from shardgate_gateway.etl.local.runner import LocalRunner
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.packages import Packages
from shardgate_gateway.etl.pipeline import Stage
from shardgate_gateway.etl.recipe import Asker, Recipe
from shardgate_gateway.etl.registration import Registrar
from shardgate_gateway.etl.registry import Registry
from shardgate_gateway.etl.relay import Relay
from shardgate_gateway.etl.transform_request import TransformRequest
from shardgate_gateway.settings import CacheSettings, EtlSettings, UpstreamSettings
from shardgate_gateway.state.database import Database, database_url
from shardgate_gateway.stores.local_folder import LocalFolder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shardgate_gateway.etl.transform_record import TransformRecord


@dataclass
class Etl:
    """Everything below one folder; a second one of the same folder is a second gateway process."""

    folder: Path
    settings: EtlSettings
    url: str = ""
    cache: Cache = field(init=False)
    packages: Packages = field(init=False)
    registry: Registry = field(init=False)
    registrar: Registrar = field(init=False)
    runner: LocalRunner = field(init=False)
    relay: Relay = field(init=False)

    def __post_init__(self) -> None:
        for name in ("bucket", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.bucket = LocalFolder(self.folder / "bucket", label="gcp://shards")
        self.database = Database(database_url(self.url, self.folder / "state"))
        self.database.prepare()
        self.cache = Cache(CacheSettings(dir=self.folder / "cache", capacity_bytes=1 << 30), UpstreamSettings())
        self.packages = Packages(self.database, LocalFolder(self.folder / "state", label="packages"))
        self.registry = Registry(self.database, self.packages)
        self.runner = LocalRunner(self.settings, self.folder / "state", self.registry.package)
        self.registrar = Registrar(self.registry, self.runner, self.settings.package_bytes)
        self.relay = Relay(
            *(self.runner, self.registry, self.settings),
            endpoint="http://127.0.0.1:1",
            sign=lambda _scopes: "",
            seal=lambda text, _about: text,
        )

    async def start(self) -> None:
        await self.cache.start()

    async def aclose(self) -> None:
        await self.runner.aclose()
        await self.registry.aclose()
        await self.cache.aclose()
        await self.database.aclose()

    def put(self, key: str, body: bytes) -> None:
        (self.folder / "bucket" / key).write_bytes(body)

    async def register(
        self, function: Callable[..., Any], *, cache: str = "never", **capturing: Any
    ) -> TransformRecord:
        _, package = capture(function, **{"decoder": "", **capturing})
        return await self.registrar.register(package, TransformOptions.parse({"cache": cache}))

    def source(self, key: str) -> StoreSource:
        return StoreSource(self.bucket, "gcp", "shards", key, Freshness.after(60))

    @asynccontextmanager
    async def request(
        self, record: TransformRecord, key: str, args: str = "", **parameters: Any
    ) -> AsyncIterator[TransformRequest]:
        """A request whose shard lies whole in the cache."""
        source = self.source(key)
        await self.cache.prefetch(source)
        reading = await self.cache.open(source)
        try:
            recipe = Recipe((Stage(record, args),), **parameters)
            yield TransformRequest(recipe=recipe, source=source, reading=reading, asker=Asker("test"))
        finally:
            reading.aclose()

    async def read(self, record: TransformRecord, key: str, *, skip: int = 0, **parameters: Any) -> bytes:
        """The whole result."""
        async with self.request(record, key, **parameters) as request:
            return await collect(self.relay, request, skip=skip)

    def worker_pids(self, record: TransformRecord) -> list[int]:
        """The runtime's workers, children of the process that status.json names."""
        status = self.runner._runtime(record.id).folder.status()
        assert status is not None
        return children(status.pid)

    def runtime_pid(self, record: TransformRecord) -> int:
        status = self.runner._runtime(record.id).folder.status()
        assert status is not None
        return status.pid


async def collect(relay: Relay, request: TransformRequest, *, skip: int = 0) -> bytes:
    parts = bytearray()
    async with aclosing(relay.stream(request, skip=skip)) as chunks:
        async for chunk in chunks:
            parts += chunk
    return bytes(parts)


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


@asynccontextmanager
async def etl_in(folder: Path, *, database: str = "", **settings: Any) -> AsyncIterator[Etl]:
    etl = Etl(folder, EtlSettings(**{"workers": 2, "start_timeout": 60, **settings}), database)
    await etl.start()
    try:
        yield etl
    finally:
        await etl.aclose()


async def eventually(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """The first true answer of `condition`."""
    async with asyncio.timeout(seconds):
        while not (answer := condition()):  # noqa: ASYNC110 (other processes set no events)
            await asyncio.sleep(0.01)
        return answer


def pid_exists(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def package_of(function: bytes = b"opaque", **manifest: Any) -> bytes:
    """A package whose function nobody could load."""
    python = "{}.{}".format(*sys.version_info[:2])
    return wire.pack_package(wire.Manifest(**{"name": "opaque", "python": python, **manifest}), function)
