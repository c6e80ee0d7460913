"""The filler's side of a fill: fetching a body into its file, by one stream or by several ranges at once.

The first request asks for the first part only, so it brings the first bytes as soon as a plain GET would, and tells
the size; if there is more, the rest follows by ranges, in parallel when it is much. Ranges are only for versions that
can be named (a strong etag) at sources that serve them; anything else comes by one plain stream. Bytes may be written
out of order, but the watermark moves only over bytes without a gap.

A small object takes the same way. Only, nobody gets a byte of it before it is whole (`Fill.announce`), so its bytes are
written and published by one trip to a thread.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import xxhash

from shardgate_gateway.cache.blocks import BLOCK, BlockSums, block_count
from shardgate_gateway.cache.fetch import changed, open_current, open_version, read_version
from shardgate_gateway.cache.hot import OpenEntry, load
from shardgate_gateway.cache.piece import Piece
from shardgate_gateway.errors import GatewayError, LocalStorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate_gateway.cache.node import Node
    from shardgate_gateway.cache.partial_entry import PartialEntry
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream


class LedFill(Protocol):
    """What the leader needs of the fill that it leads: readers of this process look at it.

    Attributes:
        source: Gives the body.
        led: This process asked the source for it.
        gaps: Samples that are missing from the whole body.
        slot: What the fill has become, once it is whole.
        handover: The open stream of a body that does not fit, until somebody takes it.
    """

    source: Source
    led: bool
    gaps: int
    slot: OpenEntry | None
    handover: ObjectStream | None

    def is_small(self, meta: ObjectMeta) -> bool:
        """Whether the body is one of those that are kept in memory."""

    def announce(self, meta: ObjectMeta, opened_at: float) -> None:
        """This version is coming."""

    def move(self, watermark: int, *, complete: bool = False) -> None:
        """So many bytes may be read."""

    def hand_over(self, stream: ObjectStream) -> None:
        """The body does not fit on the disk; whoever wants it goes on with this stream."""


class FillLeader:
    """One run of the filler. It tells `fill`, and through the control record the other processes, how far it is."""

    def __init__(self, node: Node, fill: LedFill, draft: PartialEntry) -> None:
        self._node = node
        self._fill = fill
        self._draft = draft
        self._record = draft.record
        self._source = fill.source
        self._pieces: list[Piece] = []
        self._front = 0
        """The first piece that is not whole."""
        self._before: xxhash.xxh3_128 | None = None
        """Of what a filler that died has left, where the source has to prove that it goes on with the same body."""
        self._inherited = False
        """A filler that died had all of it."""
        self._one_trip = False
        """The body is small, and is written by the thread that publishes it."""
        self._begun = asyncio.Event()
        """The first bytes are in the file."""
        self._part = max(1, node.settings.part_bytes // BLOCK) * BLOCK
        """Bytes per range request: whole blocks, so that every checksum is computed by one piece."""

    async def run(self) -> None:
        """Fetch, and publish.

        Raises:
            GatewayError: The source failed for good, or the body does not fit into the cache (LocalStorageError).
            OSError: The disk is full or failing.
        """
        try:
            if self._record.meta is None:
                await self._begin()
            else:
                await self._resume()
            self._fill.slot = await self._end()
        finally:
            for piece in self._pieces:  # the lock goes next, and then the file may belong to another process
                await piece.close()
            self._pieces = []  # they refer to this object: without a cycle, descriptors close at once

    async def _begin(self) -> None:
        """Fetch the current version."""
        self._node.counters.fills += 1
        self._fill.led = True
        stream = await self._open()
        meta = self._record.meta = stream.meta
        try:
            if not self._fill.is_small(meta) and not await self._node.run(self._draft.reserve, meta):
                self._fill.hand_over(stream)
                raise LocalStorageError(f"{self._source.label} does not fit into the cache")
            self._fill.announce(meta, self._record.opened_at)
            await self._fetch(stream, BlockSums())
        finally:
            if self._fill.handover is None:
                await stream.aclose()

    async def _open(self) -> ObjectStream:
        part = self._part if self._source.ranged else None
        self._record.opened_at = time.monotonic()
        stream = await open_current(self._source, self._node.upstream, part)
        if part is None or _divisible(stream) or _whole(stream):
            return stream
        await stream.aclose()
        return await open_current(self._source, self._node.upstream, None)

    async def _resume(self) -> None:
        """Go on at the watermark of a filler that died."""
        self._node.counters.takeovers += 1
        meta, at = self._record.meta, self._record.watermark
        assert meta is not None
        self._before = xxhash.xxh3_128() if self._source.recomputed else None
        sums = await self._node.run(self._draft.rehash, at, self._before)
        if self._record.complete:
            self._inherited = True
            self._pieces = [Piece(at, at, sums)]
            self._fill.announce(meta, self._record.opened_at)
            self._finish(at)
            return
        if meta.weak and at > 0 and not self._source.recomputed:  # that one proves what it continues
            raise changed(self._source)
        asked_at = time.monotonic()
        stream = await open_version(self._source, meta, self._node.upstream, at, self._cut(meta, at), self._before)
        try:
            self._record.opened_at = asked_at
            self._fill.announce(meta, asked_at)
            await self._fetch(stream, sums)
        finally:
            await stream.aclose()

    def _cut(self, meta: ObjectMeta, at: int) -> int | None:
        """Where the first range of a resumed body ends."""
        if meta.size is None or meta.weak or not self._source.ranged:
            return meta.size
        return min(meta.size, (at // self._part + 1) * self._part)

    def _plan(self, stream: ObjectStream, sums: BlockSums) -> list[Piece]:
        """The first piece comes by the open stream; the others by ranges of their own."""
        size = stream.meta.size
        end = size if stream.end is None or not _divisible(stream) else stream.end
        pieces = [Piece(stream.start, end, sums)]
        if size is None or end is None:
            return pieces
        step = self._part if size - stream.start >= self._node.settings.parallel_from_bytes else size
        while end < size:
            start, end = end, min(size, end + step)
            pieces.append(Piece(start, end, BlockSums(start)))
        return pieces

    async def _fetch(self, stream: ObjectStream, sums: BlockSums) -> None:
        meta = self._record.meta
        assert meta is not None
        self._pieces = self._plan(stream, sums)
        for piece in self._pieces:
            piece.begin(
                *(self._draft.body, self._node.pool, self._draft.reserve_more, self._advance),
                hurry=not self._fill.is_small(meta),
            )
        first, *rest = self._pieces
        self._one_trip = not rest and self._fill.is_small(meta)
        if rest:
            await self._fetch_together(first, rest, stream)
        else:
            await self._fetch_pieces(self._pieces, stream)
        if not self._one_trip:
            self._finish(self._pieces[-1].written)

    async def _fetch_together(self, first: Piece, rest: list[Piece], stream: ObjectStream) -> None:
        waiting = iter(rest)  # shared: each task takes the next piece as soon as it has time
        others = min(max(1, self._node.settings.parallel_parts - 1), len(rest))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetch_pieces(chain([first], waiting), stream))
                await self._begun.wait()  # more ranges would compete with the bytes that readers wait for
                for _ in range(others):
                    group.create_task(self._fetch_pieces(waiting))
        except BaseExceptionGroup as failed:
            raise _first(failed) from None

    async def _fetch_pieces(self, pieces: Iterable[Piece], stream: ObjectStream | None = None) -> None:
        meta = self._record.meta
        assert meta is not None
        for piece in pieces:
            chunks = read_version(
                self._source,
                meta,
                self._node.upstream,
                start=piece.start,
                end=piece.end,
                stream=stream,
                before=self._before,
            )
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        piece.feed(chunk)
                        if piece.full:
                            await piece.room()
            except GatewayError:
                await piece.flush()  # what came is good, and readers or an heir can use it
                raise
            if not self._one_trip:
                await piece.flush()
            stream = None

    def _advance(self) -> None:
        """Move the watermark over the bytes that are in the file without a gap."""
        while (
            self._front + 1 < len(self._pieces) and self._pieces[self._front].written == self._pieces[self._front].end
        ):
            self._front += 1
        mark = self._pieces[self._front].written
        if mark > self._record.watermark:
            self._record.watermark = mark
            self._draft.save()
            self._fill.move(mark)
            self._begun.set()

    def _finish(self, size: int) -> None:
        """All bytes are in the file."""
        self._write_down(size)
        self._tell(size)

    def _write_down(self, size: int) -> None:
        """For the other processes, and an heir."""
        meta = self._record.meta
        assert meta is not None
        self._record.meta = replace(meta, size=size)
        self._record.watermark = size
        if not self._inherited:
            self._record.gaps = self._source.gaps
        self._draft.save()

    def _tell(self, size: int) -> None:
        """The readers of this process."""
        assert self._record.meta is not None
        self._fill.announce(self._record.meta, self._record.opened_at)
        self._fill.gaps = self._record.gaps
        self._fill.move(size, complete=True)

    async def _end(self) -> OpenEntry | None:
        if not self._one_trip:
            return await self._node.run_apart(self._publish)
        loop, buffers = asyncio.get_running_loop(), await self._pieces[0].take()
        return await self._node.run(self._write_and_publish, buffers, loop)

    def _write_and_publish(
        self, buffers: list[bytes | memoryview], loop: asyncio.AbstractEventLoop
    ) -> OpenEntry | None:
        """In a thread; raises OSError. Readers get the body as soon as it is in the file."""
        piece = self._pieces[0]
        piece.write(buffers)
        self._write_down(piece.written)
        loop.call_soon_threadsafe(self._tell, piece.written)
        return self._publish()

    def _publish(self) -> OpenEntry | None:
        """Make it an entry, if it still may and can become one, and open that. In a thread; raises OSError."""
        meta = self._record.meta
        assert meta is not None
        try:
            identity = (
                self._draft.publish(meta, self._sums(self._record.watermark)) if self._may_publish(meta) else None
            )
        finally:
            self._draft.leave()
        if identity is None:
            return None
        try:
            if self._fill.is_small(meta):
                content = self._draft.content(meta)
                path = self._node.layout.entry(self._source.entry_name)
                return OpenEntry(path, identity, meta, self._record.opened_at, content=content, entry=None)
            slot = load(self._node, self._source.entry_name)
        except OSError:  # no descriptor is free; the next reader opens it, or is told so
            return None
        return slot if slot is not None and slot.identity == identity else None

    def _may_publish(self, meta: ObjectMeta) -> bool:
        """What a dead process found out about a body that another run may make differently died with it."""
        is_unknown = self._inherited and self._source.recomputed and meta.weak
        return self._source.may_be_kept() and not is_unknown

    def _sums(self, size: int) -> array[int]:
        sums = array("Q", bytes(8 * block_count(size)))
        for piece in self._pieces:
            for number, value in piece.sums.finish():
                sums[number] = value
        return sums


def _divisible(stream: ObjectStream) -> bool:
    """Whether the rest may be fetched by ranges: the length is known, the version can be named, the source obeys."""
    return stream.meta.size is not None and not stream.meta.weak and stream.partial


def _whole(stream: ObjectStream) -> bool:
    return stream.meta.size is not None and stream.end == stream.meta.size


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
