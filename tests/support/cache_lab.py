"""A real bucket in a folder that counts what is fetched from it, over all processes, and fails on command."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shardgate_gateway.cache.reader import FileSpan, Reading
from shardgate_gateway.cache.source import Freshness, Source, StoreSource
from shardgate_gateway.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from shardgate_gateway.settings import CacheSettings, UpstreamSettings
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shardgate_gateway.cache.cache import Cache

MIB = 1 << 20


@dataclass
class FolderStore(Store):
    """Objects are files; `fetched` and `requests` are counted in files, so that they survive a SIGKILL.

    Attributes:
        folder: Of the objects.
        chunk: Bytes per chunk.
        delay: Seconds before each chunk.
        weak: Etags are weak.
        sizeless: The size is not told before the end.
        partial: False sends whole objects to ranged requests, as simple web servers do.
        before_chunk: Called with the key and the offset of every chunk; raises to fail, or returns an awaitable.
        before_get: Called before every GET; raises to fail.
    """

    folder: Path
    chunk: int = 64 << 10
    delay: float = 0.0
    weak: bool = False
    sizeless: bool = False
    partial: bool = True
    before_chunk: Callable[[str, int], object] = lambda key, at: None
    before_get: Callable[[str, int], object] = lambda key, start: None
    heads: int = 0
    open_streams: int = field(default=0)

    def __post_init__(self) -> None:
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        (self.folder / "counts").mkdir(exist_ok=True)

    def write(self, key: str, data: bytes) -> None:
        """Replace an object atomically, behind everybody's back."""
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(data)
        Path(file.name).replace(self.folder / "objects" / key)

    def remove(self, key: str) -> None:
        (self.folder / "objects" / key).unlink()

    @property
    def fetched(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "counts").glob("bytes-*")) * 1024

    @property
    def requests(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "counts").glob("requests-*"))

    def _count(self, what: str, number: int) -> None:
        with (self.folder / "counts" / f"{what}-{os.getpid()}").open("ab") as file:
            file.truncate(file.tell() + number)

    def _open(self, key: str) -> tuple[BinaryIO, int, ObjectMeta]:
        try:
            file = (self.folder / "objects" / key).open("rb")
        except FileNotFoundError:
            raise NotFound(f"no {key}") from None
        stat = os.fstat(file.fileno())
        etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
        size = None if self.sizeless else stat.st_size
        return file, stat.st_size, ObjectMeta(key, size, etag, self.weak, None, "application/x-tar")

    async def get(self, key, *, start=0, end=None, if_match=None):
        self.before_get(key, start)
        self._count("requests", 1)
        file, size, meta = self._open(key)
        with contextlib.ExitStack() as stack:
            stack.callback(file.close)
            if if_match is not None and (if_match != meta.etag or self.weak):
                raise PreconditionFailed(f"{key} is {meta.etag}, not {if_match}")
            if (start and start >= size) or (end is not None and not size):
                raise RangeNotSatisfiable(f"{key} has {size} bytes", size=size)
            stop = size if end is None else min(end, size)
            told = None if self.sizeless and end is None else stop
            stack.pop_all()
        return ObjectStream(meta, start, told, _Chunks(self, key, file, start, stop), self.partial)

    async def head(self, key: str) -> ObjectMeta:
        self.heads += 1
        file, _, meta = self._open(key)
        file.close()
        return meta

    async def put(self, key, body: AsyncIterator[bytes], *, size=None, content_type=None):
        self.write(key, b"".join([chunk async for chunk in body]))
        return await self.head(key)

    async def delete(self, key: str) -> None:
        self.remove(key)

    async def list(self, prefix="", *, token=None, limit=1000, delimiter=False) -> ListPage:
        return ListPage(())


class _Chunks:
    """Closes its file even if nobody ever asked for a chunk, which a generator would not."""

    def __init__(self, store: FolderStore, key: str, file: BinaryIO, at: int, stop: int) -> None:
        self.store, self.key, self.file, self.at, self.stop = store, key, file, at, stop
        store.open_streams += 1

    def __aiter__(self):
        return self

    async def __anext__(self) -> bytes:
        if self.at >= self.stop:
            raise StopAsyncIteration
        result = self.store.before_chunk(self.key, self.at)
        if result is not None:
            await result
        await asyncio.sleep(self.store.delay)
        piece = os.pread(self.file.fileno(), min(self.store.chunk, self.stop - self.at), self.at)
        self.at += len(piece)
        self.store._count("bytes", -(-len(piece) // 1024))
        return piece

    async def aclose(self) -> None:
        if not self.file.closed:
            self.file.close()
            self.store.open_streams -= 1


UPSTREAM = UpstreamSettings(attempts=3, backoff_seconds=0.01)


def lab_settings(folder: Path, **changes) -> CacheSettings:
    values = {"dir": folder, "capacity_bytes": 1 << 30, "memory_object_bytes": 64 << 10, "scrub_bytes_per_second": 0}
    return CacheSettings(**(values | changes))


def lab_source(store: Store, key: str, freshness: Freshness | None = None) -> StoreSource:
    return StoreSource(store, "lab", "bucket", key, freshness or Freshness.after(60))


async def read(reading: Reading, start: int = 0, end: int | None = None) -> bytes:
    """All bytes, as the HTTP side would send them."""
    collected = []
    async for part in reading.parts(start, end):
        if isinstance(part, FileSpan):
            data = os.pread(part.fd, part.length, part.offset)
            assert len(data) == part.length, "a span lies beyond the end of its file"
            collected.append(data)
        else:
            collected.append(bytes(part))
    return b"".join(collected)


async def get(cache: Cache, source: Source, start: int = 0, end: int | None = None) -> bytes:
    reading = await cache.open(source)
    try:
        return await read(reading, start, end)
    finally:
        reading.aclose()


STEP = 10_000


async def read_piecemeal(reading: Reading, into: bytearray, start: int, end: int) -> None:
    """Read in small steps, so that `into` holds all that came before a failure."""
    for at in range(start, end, STEP):
        into += await read(reading, at, min(end, at + STEP))


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that look alike nowhere, so that a wrong offset is found."""
    return hashlib.shake_128(str(seed).encode()).digest(size)
