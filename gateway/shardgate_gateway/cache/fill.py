"""One fetch for all who want the same object, in this process and in the others.

Each process that wants an object that is not there runs one `Fill` for it. One of them holds the lock of the control file: it
*leads*, fetches the body into the body file and moves the watermark over bytes that are in it. The others *follow*: they
poll the control file, and whenever it shows nothing new they try the lock. Who gets it takes over at the watermark. Leading is a
task of its own, so a requester that leaves changes nothing.

**The order of things** (the argument why a stale version is never published):

1. The control record names the body file, then the body file is created, and only then the source is asked.
2. A whole body becomes an entry by renaming the body file, and by nothing else.
3. `invalidate` (`discard_fills`, then the entry) unlinks the control file, then every body file of this entry, then the entry.

After a PUT, `invalidate` finds either the body of a fill that asked before it, and then the rename of (2) fails with
ENOENT, or the entry that the rename made, and removes that. A body created after its listing belongs to a fill that asks
the source later still, and gets the new version. No lock takes part, so a process that hangs holds nobody up. Unlinking
the control file only keeps later readers from joining; those who had joined read their version to its end.

**When things break.** The filler dies: its bytes up to the watermark are in the page cache, and the heir hashes them
again and goes on by range with `If-Match`. The machine dies: the record carries another boot id, and the fill is
discarded. The disk is full or failing: readers go on straight from the store. The source fails for good: every reader
gets the error at the byte where the fill stopped.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import time
from array import array
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_gateway.cache.blocks import BLOCK, BlockSums, block_count
from shardgate_gateway.cache.control import BOOT, Control, Record, State, error_of, failure_of
from shardgate_gateway.cache.entry import TRAILER, pack_whole, seal
from shardgate_gateway.cache.fetch import changed, open_current, open_version, read_version
from shardgate_gateway.cache.layout import BODY_OFFSET, Identity, Layout, OpenFile, read_fully, unlink, write_fully
from shardgate_gateway.cache.piece import Piece
from shardgate_gateway.errors import GatewayError, LocalStorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate_gateway.cache.node import Node
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

POLL_FIRST, POLL_LONGEST = 0.002, 0.02
"""Seconds between two looks at another process's fill: at first, and while nothing moves."""
RESERVE_STEP = 64 << 20
"""Bytes reserved at a time for a body of unknown length."""
HANDOVER_SECONDS = 5.0
"""How long an open stream waits for the reader that it was opened for."""


class TryAgain(Exception):
    """The fill went away before it had anything to give; look again from the start."""


class Fill:
    """Readers use `opened`, then `meta`, `file`, `content`, `watermark` and `beyond`."""

    def __init__(self, node: Node, source: Source) -> None:
        self.source = source
        self.name = source.entry_name
        self.meta: ObjectMeta | None = None
        self.opened_at = math.inf
        """When the source said that this is the current version."""
        self.watermark = 0
        self.complete = False
        self.content: bytes | None = None
        """The whole body of a small object."""
        self.file: OpenFile | None = None
        """The body file, for reading up to the watermark."""
        self.failure: Exception | None = None
        self.led = False
        """This process fetched it from the start."""
        self.identity: Identity | None = None
        """Of the entry that this process made of it."""
        self._node = node
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved = asyncio.Event()
        self._finished = asyncio.Event()
        self._control: Control | None = None
        self._record: Record | None = None
        self._body: OpenFile | None = None
        self._pieces: list[Piece] = []
        self._front = 0
        self._handover: ObjectStream | None = None

    # --- for readers

    async def opened(self) -> None:
        """Until the version is known, and for a small object its whole body.

        Raises:
            TryAgain: See there.
            GatewayError: Why there is nothing to read.
        """
        await asyncio.shield(self._opened)

    @property
    def bypass(self) -> bool:
        """This disk can't hold it: readers are to go on straight from the store."""
        return isinstance(self.failure, LocalStorageError)

    def joinable(self) -> bool:
        """Whether a new reader may join: nobody invalidated it, and it did not fail."""
        return self.failure is None and (self._control is None or self._control.linked())

    async def beyond(self, position: int) -> int:
        """The watermark, as soon as it lies behind `position` or the body is complete.

        Raises:
            GatewayError: The fill failed and will never get there.
        """
        while self.watermark <= position and not self.complete:
            if self.failure is not None:
                raise self.failure.with_traceback(None)
            await self._moved.wait()
        return self.watermark

    async def finished(self) -> None:
        """Until nothing more will happen: it has become an entry, or can't. Raises as `beyond`."""
        await self._finished.wait()
        if self.failure is not None and not self.bypass:
            raise self.failure.with_traceback(None)

    def take_stream(self) -> ObjectStream | None:
        """The stream that the source opened, when the body turned out not to fit on the disk."""
        stream, self._handover = self._handover, None
        return stream

    # --- life

    async def run(self) -> None:
        try:
            await self._node.run(self._attach)
            while not self._ours.locked and not await self._followed():
                pass
            if self._ours.locked:
                await self._lead()
        except TryAgain as again:
            self._settle(again)
        except OSError as error:
            problem = LocalStorageError(
                f"cache of {self.source.label}: {error}", hint="is the cache's disk full or failing?"
            )
            problem.__cause__ = error
            await self._fail(problem)
        except GatewayError as error:
            await self._fail(error)
        except Exception as error:
            await self._fail(error)
            raise
        finally:
            for piece in self._pieces:
                piece.close()
            if self._control is not None:
                self._control.close()
            if not self._opened.done():
                self._settle(TryAgain())
            self._finished.set()

    @property
    def _ours(self) -> Control:
        assert self._control is not None
        return self._control

    def _attach(self) -> None:
        """Join the fill that is there, inherit one whose filler died, or begin a new one. In a thread."""
        layout = self._node.layout
        while True:
            control = self._control = Control.attach(layout.control(self.name))
            if not control.locked:
                return
            record = control.read()
            if record is None:
                self._record = Record(body=f"{self.name}.{secrets.token_hex(8)}", opened_at=time.monotonic())
                control.write(self._record)
                self._body = OpenFile.writing(layout.body(self._record.body), create=True)
                return
            if record.boot == BOOT and record.state in (State.FILLING, State.COMPLETE):
                try:
                    self.file = OpenFile.reading(layout.body(record.body))
                except FileNotFoundError:
                    pass
                else:
                    self._record = record
                    return
            discard(layout, control, record)
            self._node.space.adjust(-record.reserved)
            control.close()

    # --- following

    async def _followed(self) -> bool:
        """Watch another process until it is done (True) or its lock is ours (False)."""
        pause = POLL_FIRST
        while True:
            record = self._ours.news()
            if record is not None:
                pause = POLL_FIRST
                if self._learn(record):
                    return True
            elif self._ours.try_lock():
                record = self._ours.read()  # the last words may have come between the look and the lock
                if record is None or record.state is State.OPENING:
                    self._ours.remove()
                    raise TryAgain
                self._record = record
                return self._learn(record)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)

    def _learn(self, record: Record) -> bool:
        """Take over what the record says; True when there will be no more news."""
        self._record = record
        if record.state is State.FAILED and record.failure is not None:
            self.meta = self.meta or record.meta
            self._settle(error_of(record.failure))
            return True
        if record.meta is not None:
            if self.file is None:
                try:
                    self.file = OpenFile.reading(self._node.layout.body(record.body))
                except FileNotFoundError:  # it has become an entry, or was invalidated, since the record was written
                    raise TryAgain from None
            self.opened_at = record.opened_at
            self._announce(record.meta)
            self._move(record.watermark, complete=record.state >= State.COMPLETE)
        elif record.state is State.DONE:
            raise TryAgain
        return record.state is State.DONE

    # --- leading

    async def _lead(self) -> None:
        record = self._record
        assert record is not None
        if record.state is State.OPENING:
            stream = await self._begin(record)
            if stream is not None:
                await self._fetch(stream, BlockSums())
        elif record.state is State.FILLING:
            await self._resume(record)
        else:
            await self._rehash(record)
        if self.content is None and self.complete:
            await self._node.run(self._publish)
        elif self.content is not None:
            await self._node.run(self._publish_content, self.content)

    async def _begin(self, record: Record) -> ObjectStream | None:
        """Ask the source. Returns the open stream, or None when there is nothing left to fetch."""
        self.led = True
        self._node.counters.fills += 1
        part = self._part if self.source.ranged else None
        record.opened_at = self.opened_at = time.monotonic()
        stream = await open_current(self.source, self._node.upstream, part)
        try:
            if stream.meta.weak and part is not None and (stream.meta.size is None or stream.meta.size > part):
                await stream.aclose()  # parts of a weak version can't be told from parts of another
                stream = await open_current(self.source, self._node.upstream, None)
            meta = record.meta = stream.meta
            if meta.size is not None and meta.size <= self._node.settings.memory_object_bytes:
                await self._collect(meta, stream)
                return None
            record.reserved = RESERVE_STEP if meta.size is None else _on_disk(meta.size)
            if not await self._node.run(self._node.space.reserve, record.reserved):
                record.reserved = 0
                self.meta = meta
                self._handover = stream
                asyncio.get_running_loop().call_later(HANDOVER_SECONDS, self._drop_stream)
                raise LocalStorageError(f"{self.source.label} does not fit into the cache")
            record.state = State.FILLING
            self._ours.write(record)
        except BaseException:
            if self._handover is None:
                await stream.aclose()
            raise
        assert self._body is not None
        self.file = OpenFile.reading(f"/proc/self/fd/{self._body.fd}")
        self._announce(meta)
        return stream

    async def _collect(self, meta: ObjectMeta, stream: ObjectStream) -> None:
        """A small object is fetched whole before anybody hears of it, so that its failures are errors, not aborts."""
        async with aclosing(read_version(self.source, meta, self._node.upstream, stream=stream)) as chunks:
            self.content = b"".join([chunk async for chunk in chunks])
        self._announce(meta)
        self._move(len(self.content), complete=True)

    async def _resume(self, record: Record) -> None:
        """Go on where a filler died."""
        meta = record.meta
        assert meta is not None
        self._node.counters.takeovers += 1
        at = record.watermark
        if meta.weak and at > 0:
            raise changed(self.source)
        sums = await self._node.run(self._reopen, at)
        end = meta.size if not self.source.ranged or meta.weak else self._next_cut(at, meta.size)
        if meta.size is not None and at >= meta.size:
            self._pieces = [Piece(at, at, sums)]
            self._finish(at)
            return
        asked_at = time.monotonic()
        stream = await open_version(self.source, meta, self._node.upstream, at, end)
        self.opened_at = record.opened_at = asked_at
        self._announce(meta)
        await self._fetch(stream, sums)

    async def _rehash(self, record: Record) -> None:
        """The filler died with all bytes in the file, and before it published them."""
        at = record.watermark
        self._pieces = [Piece(at, at, await self._node.run(self._reopen, at))]
        self.opened_at = record.opened_at
        self._finish(at)

    def _reopen(self, length: int) -> BlockSums:
        """Open the body for writing, even if it was unlinked, and hash what is there. In a thread."""
        assert self.file is not None
        self._body = OpenFile.writing(f"/proc/self/fd/{self.file.fd}")
        sums = BlockSums()
        while sums.position < length:
            data = read_fully(self.file.fd, BODY_OFFSET + sums.position, min(BLOCK, length - sums.position))
            if not data:
                raise OSError("the body is shorter than its watermark")
            sums.update(data)
        return sums

    # --- fetching

    @property
    def _part(self) -> int:
        """Bytes per range request: whole blocks, so that every checksum is computed by one piece."""
        return max(1, self._node.settings.part_bytes // BLOCK) * BLOCK

    def _next_cut(self, at: int, size: int | None) -> int | None:
        cut = (at // self._part + 1) * self._part
        return cut if size is None else min(cut, size)

    def _plan(self, stream: ObjectStream, sums: BlockSums) -> list[Piece]:
        """The first piece comes by the open stream; the others by ranges of their own."""
        meta = stream.meta
        size = meta.size
        end = size if stream.end is None or meta.weak else stream.end
        pieces = [Piece(stream.start, end, sums)]
        if size is None or end is None:
            return pieces
        step = self._part if size - stream.start >= self._node.settings.parallel_from_bytes else size
        while end < size:
            start, end = end, min(size, end + step)
            pieces.append(Piece(start, end, BlockSums(start)))
        return pieces

    async def _fetch(self, stream: ObjectStream, sums: BlockSums) -> None:
        self._pieces = self._plan(stream, sums)
        assert self._body is not None
        for piece in self._pieces:
            piece.begin(self._body, self._node.pool, self._prepare, self._advance)
        first, *rest = self._pieces
        waiting = iter(rest)  # shared: each task takes the next piece as soon as it has time
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetch_pieces(chain([first], waiting), stream))
                for _ in range(min(max(1, self._node.settings.parallel_parts - 1), len(rest))):
                    group.create_task(self._fetch_pieces(waiting))
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        finally:
            await stream.aclose()
        self._finish(self._pieces[-1].written)

    async def _fetch_pieces(self, pieces: Iterable[Piece], stream: ObjectStream | None = None) -> None:
        for piece in pieces:
            await self._fetch_piece(piece, stream)
            stream = None

    async def _fetch_piece(self, piece: Piece, stream: ObjectStream | None) -> None:
        assert self._record is not None
        assert self._record.meta is not None
        chunks = read_version(
            self.source, self._record.meta, self._node.upstream, start=piece.start, end=piece.end, stream=stream
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                piece.feed(chunk)
                if piece.full:
                    await piece.room()
        await piece.flush()

    def _prepare(self, end: int) -> None:
        """Reserve more for a body of unknown length. In the writer's thread, and there is only one piece then."""
        record = self._record
        assert record is not None
        while _on_disk(end) > record.reserved:
            if not self._node.space.reserve(RESERVE_STEP):
                raise OSError("no space is left in the cache")
            record.reserved += RESERVE_STEP

    def _advance(self) -> None:
        """Move the watermark over the bytes that are in the file without a gap."""
        record = self._record
        assert record is not None
        while (
            self._front + 1 < len(self._pieces) and self._pieces[self._front].written == self._pieces[self._front].end
        ):
            self._front += 1
        mark = self._pieces[self._front].written
        if mark > self.watermark:
            record.watermark = mark
            self._ours.write(record)
            self._move(mark)

    def _finish(self, size: int) -> None:
        """All bytes are in the file."""
        record = self._record
        assert record is not None
        assert record.meta is not None
        meta = record.meta = replace(record.meta, size=size)
        record.watermark, record.state = size, State.COMPLETE
        self._ours.write(record)
        self.meta = meta
        self._announce(meta)
        self._move(size, complete=True)

    # --- telling readers

    def _announce(self, meta: ObjectMeta) -> None:
        self.meta = meta
        if not self._opened.done():
            self._opened.set_result(None)

    def _move(self, watermark: int, *, complete: bool = False) -> None:
        self.watermark = watermark
        self.complete = self.complete or complete
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _settle(self, error: Exception) -> None:
        """Nothing more will come."""
        if self.complete:
            return
        self.failure = error
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # nobody may be waiting
        self._wake()

    # --- the end

    def _publish(self) -> None:
        """Make the body an entry, if nobody invalidated it. In a thread."""
        assert self._body is not None
        assert self.meta is not None
        sums = array("Q", bytes(8 * block_count(self.watermark)))
        for piece in self._pieces:
            for number, value in piece.sums.finish():
                sums[number] = value
        try:
            seal(self._body.fd, self.name, self.source.label, self._fetched_at(), self.meta, sums)
            self._rename()
        except OSError:
            self._leave()
            raise

    def _publish_content(self, content: bytes) -> None:
        assert self._body is not None
        assert self.meta is not None
        assert self._record is not None
        try:
            whole = pack_whole(self.name, self.source.label, self._fetched_at(), self.meta, content)
            self._record.reserved = sum(map(len, whole))
            if not self._node.space.reserve(self._record.reserved):
                self._record.reserved = 0
                return self._leave()
            write_fully(self._body.fd, whole, 0)
            self._rename()
        except OSError:
            self._leave()
            raise

    def _fetched_at(self) -> float:
        """In wall-clock time, which survives the process."""
        return time.time() - (time.monotonic() - self.opened_at)

    def _rename(self) -> None:
        """The one moment at which a body becomes an entry."""
        layout, record = self._node.layout, self._record
        assert self._body is not None
        assert record is not None
        fd, path = self._body.fd, Path(layout.entry(self.name))
        if self._node.settings.fsync:
            os.fsync(fd)
        now = time.time_ns()
        os.utime(fd, ns=(now, now))
        identity = Identity.of(os.fstat(fd))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            replaced = path.stat().st_size
        except FileNotFoundError:
            replaced = None
        try:
            os.rename(layout.body(record.body), path)
        except FileNotFoundError:  # invalidated
            return self._leave()
        if self._node.settings.fsync:
            _fsync_folder(path.parent)
        self._node.space.adjust(identity.size - record.reserved - (replaced or 0), 0 if replaced is not None else 1)
        record.reserved = 0
        self._node.counters.published += 1
        self.identity = identity
        self._leave()

    async def _fail(self, error: Exception) -> None:
        """Tell everybody, and clean up. A failure after the last byte concerns nobody but the disk."""
        self._node.counters.failures += 1
        record = self._record
        if self._control is not None and self._control.locked and record is not None and record.state < State.DONE:
            record.state, record.failure = State.FAILED, failure_of(error)
            try:
                await self._node.run(self._leave)
            except OSError:  # nothing can be written or removed; the lock goes with the process
                pass
        self._settle(error)

    def _leave(self) -> None:
        """Say the last word and remove what did not become an entry. In a thread."""
        record = self._record
        assert record is not None
        if record.state is not State.FAILED:
            record.state = State.DONE
        reserved, record.reserved = record.reserved, 0
        self._ours.write(record)
        discard(self._node.layout, self._ours, record)
        if reserved:
            self._node.space.adjust(-reserved)

    def _drop_stream(self) -> None:
        stream = self.take_stream()
        if stream is not None:
            self._node.detach(stream.aclose())


def discard(layout: Layout, control: Control, record: Record) -> None:
    """Remove the files of one fill."""
    control.remove()
    unlink(layout.body(record.body))


def discard_fills(layout: Layout, name: str) -> None:
    """Keep every fill of this entry that is under way from being joined or published: see the module's argument."""
    unlink(layout.control(name))
    for path in layout.bodies(name):
        unlink(path)


def _on_disk(size: int) -> int:
    """Bytes of an entry, without its member index."""
    return BODY_OFFSET + size + 8 * block_count(size) + TRAILER.size


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fsync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
