"""What a reader gets: one version of an object, and its bytes from wherever they are.

A `Reading` is pinned to its version. An `EntryReading` reads a file that is whole, a `FillReading` one that grows, a
`DirectReading` the store itself. The first two become the third in the middle of a body when the disk fails them, at
the same version or not at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.cache.blocks import BLOCK, digest_of
from shardgate_gateway.cache.fetch import read_version
from shardgate_gateway.cache.layout import BODY_OFFSET, read_fully
from shardgate_gateway.cache.members import index_bytes
from shardgate_gateway.errors import CacheCorrupt, GenerationChanged, LocalStorageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    import xxhash

    from shardgate_gateway.cache.fill import Fill
    from shardgate_gateway.cache.hot import OpenEntry
    from shardgate_gateway.cache.members import Index
    from shardgate_gateway.cache.node import Node
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

VERIFY_STEP = 8 << 20
"""Bytes verified at a time ahead of sending them."""


class FileSpan(NamedTuple):
    """Bytes that are in a local file now. The descriptor is open until the reading closes; read it by offset only."""

    fd: int
    offset: int
    length: int


class Reading(ABC):
    """One version of one object, open for reading. Close it."""

    state: str
    """`hit`, `miss` (this open began the fetch), `filling` (it joined one), `bypass` (straight from the store)."""

    @property
    @abstractmethod
    def meta(self) -> ObjectMeta:
        """The pinned version; its size is None only while a body of unknown length is filling."""

    @property
    def content(self) -> bytes | None:
        """The whole body, where it is kept in memory."""
        return None

    @property
    def file(self) -> FileSpan | None:
        """The whole body, where it is complete and verified in a local file."""
        return None

    @abstractmethod
    def parts(self, start: int = 0, end: int | None = None) -> AsyncGenerator[FileSpan | bytes | memoryview]:
        """Bytes `[start, end)` in order, as they become available; ends normally only when all of them came.

        Raises:
            UpstreamError: The source failed for good.
            GenerationChanged: The rest can be had from the store alone, and there this version is gone.
            CacheCorrupt: The cached bytes are damaged, and this version is gone from the store.
        """

    @property
    def gaps(self) -> int:
        """Samples that are missing from the body for a cause that may pass. Known when all parts came."""
        return 0

    async def verified_file(self) -> FileSpan | None:
        """`file`, after verifying a complete local body if that is still to be done; does not wait for a fill."""
        return self.file

    def aclose(self) -> None:  # noqa: B027 - most readings hold nothing that must be closed
        """Let go of files and streams; cheap, and may be called again."""


class EntryReading(Reading):
    """A whole entry."""

    state = "hit"

    def __init__(self, node: Node, source: Source, slot: OpenEntry, damaged: Callable[[OpenEntry], None]) -> None:
        self._node = node
        self._source = source
        self._slot = slot
        self._damaged = damaged

    @property
    def meta(self) -> ObjectMeta:
        return self._slot.meta

    @property
    def content(self) -> bytes | None:
        return self._slot.content

    @property
    def file(self) -> FileSpan | None:
        slot = self._slot
        if slot.entry is None or slot.unchecked:
            return None
        return FileSpan(slot.entry.file.fd, BODY_OFFSET, slot.size)

    async def verified_file(self) -> FileSpan | None:
        if self._slot.entry is None or (self._slot.unchecked and not await self._intact(0, self._slot.size)):
            return None
        return FileSpan(self._slot.entry.file.fd, BODY_OFFSET, self._slot.size)

    @property
    def slot(self) -> OpenEntry:
        return self._slot

    def members(self) -> Index:
        """The tar index. Blocks; raises EntryInvalid, OSError."""
        slot = self._slot
        if slot.members is not None:
            return slot.members
        return slot.entry.members() if slot.entry is not None else index_bytes(slot.content or b"")

    async def parts(self, start: int = 0, end: int | None = None) -> AsyncGenerator[FileSpan | bytes | memoryview]:
        slot = self._slot
        stop = slot.size if end is None else min(end, slot.size)
        if slot.content is not None:
            if start < stop:
                yield slot.content if stop - start == slot.size else memoryview(slot.content)[start:stop]
            return
        assert slot.entry is not None
        while start < stop:
            ready = stop
            if slot.unchecked:
                ready = min(stop, (start // VERIFY_STEP + 1) * VERIFY_STEP)
                if not await self._intact(start, ready):
                    break
            yield FileSpan(slot.entry.file.fd, BODY_OFFSET + start, ready - start)
            start = ready
        if start < stop:
            async with aclosing(self._instead(start, stop)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _intact(self, start: int, end: int) -> bool:
        try:
            if await self._node.run(self._slot.verify, start, end):
                return True
        except OSError:  # the disk can't even read it
            pass
        self._damaged(self._slot)
        return False

    async def _instead(self, start: int, end: int) -> AsyncGenerator[bytes | memoryview]:
        """The same bytes of the same version from the store."""
        gone = CacheCorrupt(
            f"the cached copy of {self._source.label} is damaged, and its version is not in the store any more",
            hint="read it again to get the current version; check this node's disk",
        )
        if not _can_continue(self._source, self.meta):
            raise gone
        try:
            assert self._slot.entry is not None
            before = await _digest_before(self._node, self._source, self._slot.entry.file.fd, start)
            async with aclosing(
                read_version(self._source, self.meta, self._node.upstream, start=start, end=end, before=before)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk
        except GenerationChanged as error:
            raise gone from error


class FillReading(Reading):
    """A body that is still growing, or was when this reading was opened."""

    def __init__(self, node: Node, fill: Fill, state: str) -> None:
        self.state = state
        self._node = node
        self._fill = fill
        self._closed = False
        fill.join()

    def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._fill.leave()

    @property
    def gaps(self) -> int:
        return self._fill.gaps or self._fill.source.gaps

    async def finished(self) -> None:
        """Until the fetch is over. Raises as `parts`."""
        await self._fill.finished()

    @property
    def slot(self) -> OpenEntry | None:
        """The entry that the fetch has become, if it has become one in this process."""
        return self._fill.slot

    @property
    def meta(self) -> ObjectMeta:
        assert self._fill.meta is not None
        return self._fill.meta

    @property
    def file(self) -> FileSpan | None:
        fill = self._fill
        if fill.file is None or not fill.complete:
            return None
        return FileSpan(fill.file.fd, BODY_OFFSET, fill.watermark)

    async def parts(self, start: int = 0, end: int | None = None) -> AsyncGenerator[FileSpan | bytes | memoryview]:
        fill, begin = self._fill, start
        assert fill.file is not None
        while end is None or start < end:
            try:
                mark = await fill.beyond(start)
            except LocalStorageError:
                if start > begin and not _can_continue(fill.source, self.meta):
                    raise
                break
            ready = mark if end is None else min(mark, end)
            if ready <= start:
                return  # the body is complete, and shorter than asked for
            yield FileSpan(fill.file.fd, BODY_OFFSET + start, ready - start)
            start = ready
        if end is None or start < end:
            size = self.meta.size
            stop = size if end is None or size is None else min(end, size)
            before = await _digest_before(self._node, fill.source, fill.file.fd, start)
            async with aclosing(
                read_version(fill.source, self.meta, self._node.upstream, start=start, end=stop, before=before)
            ) as chunks:
                async for chunk in chunks:
                    yield chunk


class DirectReading(Reading):
    """Straight from the store, at one version."""

    state = "bypass"

    def __init__(self, node: Node, source: Source, meta: ObjectMeta, stream: ObjectStream | None) -> None:
        self._meta = meta
        self._node = node
        self._source = source
        self._stream = stream

    @property
    def meta(self) -> ObjectMeta:
        return self._meta

    @property
    def gaps(self) -> int:
        return self._source.gaps

    async def parts(self, start: int = 0, end: int | None = None) -> AsyncGenerator[FileSpan | bytes | memoryview]:
        stream, self._stream = self._stream, None
        if stream is not None and (start != stream.start or end is not None):
            await stream.aclose()
            stream = None
        if self.meta.size is not None:
            end = self.meta.size if end is None else min(end, self.meta.size)
        chunks = read_version(self._source, self.meta, self._node.upstream, start=start, end=end, stream=stream)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def aclose(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._node.detach(stream.aclose())


def _can_continue(source: Source, meta: ObjectMeta) -> bool:
    """Whether the source can tell that the rest of a body belongs to the same version as its beginning."""
    return source.recomputed or not meta.weak


async def _digest_before(node: Node, source: Source, fd: int, start: int) -> xxhash.xxh3_128 | None:
    """Of the bytes of the body that lie before `start` in a file of the cache; None where nobody needs it."""
    if not source.recomputed:
        return None
    return await node.run(digest_of, fd, BODY_OFFSET, start)


async def as_bytes(
    node: Node, parts: AsyncIterable[FileSpan | bytes | memoryview]
) -> AsyncGenerator[bytes | memoryview]:
    """The same with the spans read, in threads. Raises LocalStorageError where a file is shorter than its span."""
    async for part in parts:
        if not isinstance(part, FileSpan):
            yield part
            continue
        for at in range(0, part.length, BLOCK):
            wanted = min(BLOCK, part.length - at)
            data = await node.run(read_fully, part.fd, part.offset + at, wanted)
            if len(data) != wanted:
                raise LocalStorageError(f"a cached file has {len(data)} of {wanted} bytes at {part.offset + at}")
            yield data
