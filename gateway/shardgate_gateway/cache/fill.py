"""One fetch for all who want the same object, in this process and in the others.

Each process that wants an object that is not there runs one `Fill` for it. One of them holds the lock of the control
file and *leads* (`fill_leader.py`). The others *follow*: they poll the control file, and whenever it shows nothing new
they try the lock. Who gets it takes over at the watermark. A fill is a task of its own: a requester that leaves changes
nothing. Only what is recomputed costs too much to go on for nobody: it stops a moment after its last reader left, and
the next one goes on from there.

**When things break.** The filler dies: its bytes up to the watermark are in the page cache, and the heir hashes them
again and goes on by range with `If-Match`. The machine dies: the record carries another boot id, and the fill is
discarded. The disk is full or failing: readers go on straight from the store. The source fails for good: every reader
gets the error at the byte where the fill stopped. The object was invalidated: see `partial_entry.py`.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING

from shardgate_gateway.cache.control import Control, Record, State
from shardgate_gateway.cache.fill_leader import FillLeader
from shardgate_gateway.cache.layout import OpenFile
from shardgate_gateway.cache.partial_entry import PartialEntry
from shardgate_gateway.error_record import error_of, failure_of
from shardgate_gateway.errors import GatewayError, LocalStorageError, UpstreamUnavailable

if TYPE_CHECKING:
    from shardgate_gateway.cache.hot import OpenEntry
    from shardgate_gateway.cache.node import Node
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

POLL_FIRST, POLL_LONGEST = 0.002, 0.02
"""Seconds between two looks at another process's fill: at first, and while nothing moves."""
HANDOVER_SECONDS = 5.0
"""How long an open stream waits for the reader that it was opened for."""
UNWANTED_SECONDS = 2.0
"""How long a body is recomputed for nobody: a reader that lost its connection is back by then."""


class TryAgain(Exception):
    """The fill went away before it had anything to give; look again from the start."""


class Fill:
    """What is known here of a body that is being fetched, by this process or another."""

    def __init__(self, node: Node, source: Source) -> None:
        self.source = source
        self.name = source.entry_name
        self.meta: ObjectMeta | None = None
        self.opened_at = math.inf
        """When the source was asked, and said that this is the current version (monotonic)."""
        self.watermark = 0
        self.complete = False
        self.gaps = 0
        """Samples that are missing from the complete body."""
        self.file: OpenFile | None = None
        """The body file, for reading up to the watermark."""
        self.failure: Exception | None = None
        self.led = False
        """This process fetched it, from the first byte on."""
        self.slot: OpenEntry | None = None
        """The entry that this process made of it."""
        self.handover: ObjectStream | None = None
        """The open stream of a body that turned out not to fit on the disk, for the first who wants it."""
        self._node = node
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._joined: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._moved = asyncio.Event()
        self._finished = asyncio.Event()
        self._control: Control | None = None
        self._task: asyncio.Task[None] | None = None
        self._readers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unwanted = False

    # --- for readers

    def join(self) -> None:
        """Somebody wants it, until `leave`."""
        self._readers += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        self._readers -= 1
        if not self._readers and self.source.recomputed and not self.complete:
            self._timer = asyncio.get_running_loop().call_later(UNWANTED_SECONDS, self._stop)

    def _stop(self) -> None:
        if self._task is not None and not self.complete and self.failure is None:
            self._unwanted = True
            self._task.cancel()

    async def opened(self) -> None:
        """Until the version is known, and for a small object its whole body.

        Raises:
            TryAgain: See there.
            GatewayError: Why there is nothing to read.
        """
        await asyncio.shield(self._opened)

    async def waits_for_owner(self) -> bool:
        """Whether the rest may come from the object's owner, to this process or the one that fills. Known at once."""
        return await asyncio.shield(self._joined) and not self.complete

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
        if self.failure is not None and not isinstance(self.failure, LocalStorageError):
            raise self.failure.with_traceback(None)

    def joinable(self) -> bool:
        """Whether a new reader may join: it did not fail, and nobody invalidated it."""
        return self.failure is None and not self._unwanted and (self._control is None or self._control.linked())

    def take_stream(self) -> ObjectStream | None:
        stream, self.handover = self.handover, None
        return stream

    # --- for who fills

    def announce(self, meta: ObjectMeta, opened_at: float) -> None:
        """This version is coming. Readers of a small body wait for all of it: if it fails, none of it was sent."""
        self.meta = meta
        self.opened_at = opened_at
        if not self._opened.done() and (self.complete or not self.is_small(meta)):
            self._opened.set_result(None)

    def is_small(self, meta: ObjectMeta) -> bool:
        """Whether the body is one of those that are kept in memory."""
        return meta.size is not None and meta.size <= self._node.settings.memory_object_bytes

    def move(self, watermark: int, *, complete: bool = False) -> None:
        self.watermark = watermark
        self.complete = self.complete or complete
        if self.complete and not self._opened.done():
            self._opened.set_result(None)
        self._wake()

    def hand_over(self, stream: ObjectStream) -> None:
        self.meta = stream.meta
        self.handover = stream
        asyncio.get_running_loop().call_later(HANDOVER_SECONDS, self._drop_stream)

    def end(self) -> None:
        """Called when its run is over, and what came of it is at hand."""
        self._finished.set()

    def _drop_stream(self) -> None:
        stream = self.take_stream()
        if stream is not None:
            self._node.detach(stream.aclose())

    def _settle(self, error: Exception) -> None:
        """Nothing more will come."""
        if not self._joined.done():
            self._joined.set_result(False)
        if self.complete or self.failure is not None:
            return
        self.failure = error
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # perhaps nobody waits
        self._wake()

    def _take_part(self, record: Record) -> None:
        """Keep to what was promised to those who joined this fill, in whatever process."""
        if not record.from_owner:
            self.source = self.source.without_owner()
        if not self._joined.done():
            self._joined.set_result(record.from_owner)

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # --- life

    async def run(self) -> None:
        """Follow or lead until it is over. Raises only what is a bug."""
        draft = None
        self._task = asyncio.current_task()
        try:
            control, draft = await self._node.run(PartialEntry.attach, self._node, self.source)
            self._control = control
            draft = draft or await self._follow(control)
            if draft is not None:
                self._take_part(draft.record)
                self.file = draft.file
                await FillLeader(self._node, self, draft).run()
        except TryAgain as again:
            self._settle(self._interrupted() if self._opened.done() else again)
        except asyncio.CancelledError:
            if self._unwanted and draft is not None:
                with suppress(OSError):
                    await self._node.run(draft.abandon)
            raise
        except OSError as error:
            await self._fail(draft, self._local(error))
        except GatewayError as error:
            await self._fail(draft, error)
        except Exception as error:
            await self._fail(draft, error)
            raise
        finally:
            self._task = None  # it refers to this object: without a cycle, descriptors close at once
            if self._control is not None:
                self._control.close()
            self._settle(self._interrupted())

    def _interrupted(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"the fetch of {self.source.label} was stopped", hint="read it again")

    def _local(self, error: OSError) -> LocalStorageError:
        self._node.disk.failed(error, self.meta.size if self.meta is not None else None)
        problem = LocalStorageError(
            f"cache of {self.source.label}: {error}", hint="is the disk of cache.dir full, or failing?"
        )
        problem.__cause__ = error
        return problem

    async def _fail(self, draft: PartialEntry | None, error: Exception) -> None:
        self._node.counters.failures += 1
        if draft is not None and draft.record.state < State.DONE:
            try:
                await self._node.run(draft.leave, failure_of(error))
            except OSError as problem:  # nothing can be written any more; the lock still goes with the descriptor
                error.add_note(f"and cleaning up failed: {problem}")
        self._settle(error)

    # --- following

    async def _follow(self, control: Control) -> PartialEntry | None:
        """Watch another process until it is done, or until its place is ours."""
        pause = POLL_FIRST
        while True:
            record = control.news()
            if record is not None:
                pause = POLL_FIRST
                if self._learn(record):
                    return None
            elif control.try_lock():
                return await self._inherit(control)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)

    async def _inherit(self, control: Control) -> PartialEntry | None:
        """The filler is gone."""
        record = control.read()  # its last words may have come between the look and the lock
        if record is None or record.meta is None:
            await self._node.run(PartialEntry.forget, self._node, control, record)
            raise TryAgain
        if self._learn(record):
            return None
        assert self.file is not None
        return await self._node.run(PartialEntry.inherit, self._node, self.source, control, record, self.file)

    def _learn(self, record: Record) -> bool:
        """Take over what the record says; True when there will be no more news."""
        self._take_part(record)
        if record.state is State.FAILED and record.failure is not None:
            self.meta = self.meta or record.meta
            self._settle(error_of(record.failure))
            return True
        if record.meta is None:
            return False
        if self.file is None:
            try:
                self.file = OpenFile.reading(self._node.layout.body(record.body))
            except FileNotFoundError:  # it has become an entry, or was invalidated: of no use to anybody new
                raise TryAgain from None
        if record.state is State.DONE and not record.complete:
            raise TryAgain
        self.announce(record.meta, record.opened_at)
        self.gaps = record.gaps
        self.move(record.watermark, complete=record.complete)
        return record.state is State.DONE
