"""The cache as the rest of the gateway sees it.

An open walks down this list and stops at the first that fits: an entry that this process has at hand (`lookup`), a
fetch that this process takes part in, an entry on disk, and at last a new `Fill`, which joins another process's fetch
or begins one. Whatever is found must be fresh: what the source was not asked about recently enough is asked about
first.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from shardgate_gateway import metrics
from shardgate_gateway.cache.counters import Counters
from shardgate_gateway.cache.entry import EntryInvalid
from shardgate_gateway.cache.fill import Fill, TryAgain
from shardgate_gateway.cache.hot import EXHAUSTED, HotSet, OpenEntry, load
from shardgate_gateway.cache.layout import Layout, exists
from shardgate_gateway.cache.members import Index, Member, NoIndex, index_stream
from shardgate_gateway.cache.node import Node, survive
from shardgate_gateway.cache.partial_entry import discard_fills
from shardgate_gateway.cache.reader import DirectReading, EntryReading, FillReading, Reading, as_bytes
from shardgate_gateway.cache.scrub import Scrubber
from shardgate_gateway.cache.space import Space
from shardgate_gateway.cache.sweep import sweep
from shardgate_gateway.errors import BadRequest, GenerationChanged, LocalStorageError, NotFound, UpstreamError
from shardgate_gateway.jobs.periodic import Periodic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.settings import CacheSettings, UpstreamSettings
    from shardgate_gateway.stores.base import ObjectMeta

T = TypeVar("T")
TURNS = 20
"""How often an open looks again because what it found went away under its hands."""
TURN_SECONDS = 0.002
THREADS, PUBLISHERS = 8, 4
HOUSEKEEPING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class CacheStat:
    """Entries and bytes are of the node, over all processes; the counters are of this process."""

    entries: int
    used_bytes: int
    capacity_bytes: int
    filling: int
    counters: Counters


class Cache:
    """One per process; all processes of a node share the folder. `start` it before use, `aclose` it after."""

    def __init__(self, settings: CacheSettings, upstream: UpstreamSettings) -> None:
        self.counters = Counters()
        self._settings = settings
        self._upstream = upstream
        self._hot = HotSet(settings.memory_bytes)
        self._fills: dict[str, Fill] = {}
        self._running: dict[tuple[str, str], tuple[float, asyncio.Task[Any]]] = {}
        self._closed = False
        self._evicting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the folder, and remove what dead processes left. Raises LocalStorageError."""
        layout = Layout.at(self._settings.dir)
        try:
            layout.create()
            await asyncio.to_thread(sweep, layout)
            space = await asyncio.to_thread(Space, layout, self._settings, self.counters)
        except OSError as error:
            raise LocalStorageError(
                f"cache folder {layout.root}: {error}", hint="set cache.dir to a writable folder"
            ) from error
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cache")
        publishers = ThreadPoolExecutor(PUBLISHERS, thread_name_prefix="cache-index")
        self._node = Node(layout, space, self._settings, self._upstream, pool, publishers, self.counters)

    async def aclose(self) -> None:
        """Stop fetching; another process, or the next start, goes on with what is unfinished."""
        if self._closed:
            return
        self._closed = True
        tasks = list(self._node.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pool in (self._node.publishers, self._node.pool):
            await asyncio.to_thread(pool.shutdown)
        self._hot = HotSet(0)
        self._node.space.close()

    # --- reading

    def lookup(self, source: Source) -> Reading | None:
        """A fresh, whole and verified entry that this process has at hand. The hot path: one `stat`, no await."""
        slot = self._hot.get(source.entry_name)
        now = time.monotonic()
        if slot is None or slot.unchecked or slot.validated_at < source.freshness.since(now):
            return None
        if slot.content is None and self._settings.verify == "always":
            return None
        if not slot.current():
            self._hot.drop(source.entry_name)
            return None
        slot.touch(now)
        self._node.counters.hits += 1
        return EntryReading(self._node, source, slot, self._damaged)

    def holds(self, source: Source) -> bool:
        """Whether there are bytes of it on this node, or on their way to it; perhaps not fresh ones."""
        layout, name = self._node.layout, source.entry_name
        return name in self._fills or exists(layout.entry(name)) or exists(layout.control(name))

    async def open(self, source: Source) -> Reading:
        """Join or start whatever brings this object; returns as soon as its version is known.

        Raises:
            NotFound, Forbidden, UpstreamError: The source can't give it.
            GenerationChanged: The source is recomputed from a version that is gone; name the source anew.
            LocalStorageError: This process has no file descriptors left.
        """
        reading = self.lookup(source)
        if reading is not None:
            return reading
        since = source.freshness.since(time.monotonic())
        for turn in range(TURNS):
            try:
                reading = await self._open_entry(source, since) or await self._open_fill(source, since)
            except (TryAgain, GenerationChanged) as error:
                if source.recomputed and turn and isinstance(error, GenerationChanged):
                    raise  # its name says of which version it is made, so asking again changes nothing
                await asyncio.sleep(turn * TURN_SECONDS)  # whoever is in between two steps gets time for the second
            except OSError as error:
                self._hot.shrink()
                if error.errno not in EXHAUSTED:
                    raise LocalStorageError(f"cache of {source.label}: {error}") from error
                raise LocalStorageError(
                    "this process has no file descriptors left",
                    hint="raise `ulimit -n`, or lower the number of connections",
                ) from error
            else:
                if reading is not None:
                    return reading
        raise UpstreamError(f"{source.label} changes faster than it can be read", hint="try again later")

    async def open_kept(self, source: Source) -> Reading | None:
        """A whole and current entry, for which nothing is fetched; None where there is none. Raises as `head`."""
        try:
            return await self._open_entry(source, source.freshness.since(time.monotonic()))
        except (TryAgain, OSError):
            return None

    async def _open_entry(self, source: Source, since: float) -> Reading | None:
        fill = self._fills.get(source.entry_name)
        if fill is not None and fill.joinable() and fill.opened_at >= since:
            return None
        slot = await self._slot(source)
        if slot is None:
            return None
        slot.touch(time.monotonic())
        if slot.validated_at < since and not await self._is_current(source, slot.meta, since):
            self._hot.drop(source.entry_name)
            return None
        self._node.counters.hits += 1
        return self._entry_reading(source, slot)

    def _entry_reading(self, source: Source, slot: OpenEntry) -> EntryReading:
        if self._settings.verify == "always" and slot.entry is not None:
            slot = OpenEntry(slot.path, slot.identity, slot.meta, slot.validated_at, content=None, entry=slot.entry)
        return EntryReading(self._node, source, slot, self._damaged)

    async def _slot(self, source: Source) -> OpenEntry | None:
        """The entry on disk, opened once for all who want it."""
        slot = self._hot.get(source.entry_name)
        if slot is not None:
            if slot.current():
                return slot
            self._hot.drop(source.entry_name)
        if not exists(self._node.layout.entry(source.entry_name)):  # a thread costs more than this
            return None
        slot = await self._together("load", source.entry_name, lambda: self._load(source.entry_name))
        if slot is not None and not slot.current():  # what was begun for somebody else may be older than this open
            raise TryAgain
        return slot

    async def _load(self, name: str) -> OpenEntry | None:
        slot = await self._node.run(load, self._node, name)
        if slot is None:
            return None
        if self._settings.verify == "never":
            slot.trust()
        return self._hot.put(name, slot)

    async def _open_fill(self, source: Source, since: float) -> Reading | None:
        fill = self._fills.get(source.entry_name)
        state = "filling"
        if fill is None or not fill.joinable():
            fill = self._begin(source)
            state = "miss"
        fill.join()
        try:
            if not source.waits_for_owner and await fill.waits_for_owner():
                raise NotFound(f"{source.label} is on its way to this gateway from its owner only")
            return await self._opened(source, since, fill, state)
        finally:
            fill.leave()

    async def _opened(self, source: Source, since: float, fill: Fill, state: str) -> Reading | None:
        try:
            await fill.opened()
        except LocalStorageError as error:
            return await self._open_direct(source, fill, error)
        if fill.opened_at < since and not await self._is_current(source, fill.meta, since):
            await self._node.run(discard_fills, self._node.layout, source.entry_name)
            return None
        if state == "miss" and fill.led:
            self._node.counters.misses += 1
        else:
            state = "filling"
            self._node.counters.joined += 1
        return FillReading(self._node, fill, state)

    async def _open_direct(self, source: Source, fill: Fill, error: LocalStorageError) -> Reading:
        """This disk can't hold it."""
        self._node.counters.bypasses += 1
        metrics.CACHE_BYPASSES.inc()
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in EXHAUSTED:
            raise cause
        stream = fill.take_stream()
        meta = fill.meta if stream is not None else await source.head()
        assert meta is not None
        return DirectReading(self._node, source, meta, stream)

    def _begin(self, source: Source) -> Fill:
        fill = Fill(self._node, source)
        self._fills[source.entry_name] = fill
        self._node.detach(self._run(fill))
        return fill

    async def _run(self, fill: Fill) -> None:
        try:
            await fill.run()
            self._keep(fill)
        finally:
            if self._fills.get(fill.name) is fill:
                del self._fills[fill.name]
            fill.end()
        if self._node.space.crowded():
            self._make_room()

    def _keep(self, fill: Fill) -> None:
        """What was just published is likely to be read again."""
        slot = fill.slot
        if slot is None:
            return
        slot.validated_at = fill.opened_at
        if fill.led:  # the checksums were computed from the very bytes that came
            slot.trust()
        self._hot.put(fill.name, slot)

    # --- asking the source

    async def _is_current(self, source: Source, meta: ObjectMeta | None, since: float) -> bool:
        """Whether the source still has this version, asked at `since` or later, once for all who want to know."""
        name = source.entry_name
        asked, found = await self._together("head", name, lambda: self._ask(source), since)
        if meta is None or found.etag != meta.etag or found.weak != meta.weak:
            return False
        slot = self._hot.get(name)
        if slot is not None and slot.meta.etag == meta.etag:
            slot.validated_at = max(slot.validated_at, asked)
        return True

    async def _ask(self, source: Source) -> tuple[float, ObjectMeta]:
        asked = time.monotonic()
        self._node.counters.revalidations += 1
        try:
            return asked, await source.head()
        except NotFound:
            await self.evict(source)
            raise

    async def _together(self, what: str, name: str, work: Callable[[], Awaitable[T]], since: float = 0.0) -> T:
        """Do it once for all who want it now, if it began at `since` or later. One who leaves disturbs nobody."""
        begun, task = self._running.get((what, name), (0.0, None))
        if task is None or begun < since:
            begun = time.monotonic()
            task = self._node.detach(_awaited(work))
            self._running[what, name] = begun, task
            task.add_done_callback(lambda done: self._forget(what, name, done))
        result: T = await asyncio.shield(task)
        return result

    def _forget(self, what: str, name: str, done: asyncio.Task[Any]) -> None:
        if self._running.get((what, name), (0.0, None))[1] is done:
            del self._running[what, name]
        if not done.cancelled():
            done.exception()  # whoever waited has it

    async def head(self, source: Source) -> ObjectMeta:
        """Describe the version that `open` would give, without fetching its body. Raises as `open`."""
        since = source.freshness.since(time.monotonic())
        fill = self._fills.get(source.entry_name)
        if fill is not None and fill.meta is not None and fill.joinable() and fill.opened_at >= since:
            return fill.meta
        try:
            slot = await self._slot(source)
        except TryAgain:
            slot = None
        if slot is not None and (slot.validated_at >= since or await self._is_current(source, slot.meta, since)):
            return slot.meta
        return await source.head()

    # --- changing

    async def invalidate(self, source: Source) -> None:
        """The object was written or deleted: no open after this call, in any process, gives an older version."""
        self._hot.drop(source.entry_name)
        self._fills.pop(source.entry_name, None)
        await self._node.run(self._discard, source.entry_name)

    def _discard(self, name: str) -> None:
        discard_fills(self._node.layout, name)
        self._node.space.remove_entry(self._node.layout.entry(name))

    async def evict(self, source: Source) -> bool:
        """Give the object's space back; who reads it is not disturbed. Says whether there was an entry."""
        self._hot.drop(source.entry_name)
        return await self._node.run(self._node.space.remove_entry, self._node.layout.entry(source.entry_name))

    async def evict_group(self, group: str) -> int:
        """As `evict`, for all entries whose names begin so (`group_name`); how many there were."""
        names = await self._node.run(self._node.layout.entries_of, group)
        for name in names:
            self._hot.drop(name)
            self._fills.pop(name, None)
            await self._node.run(discard_fills, self._node.layout, name)
        paths = [self._node.layout.entry(name) for name in names]
        return sum([await self._node.run(self._node.space.remove_entry, path) for path in paths])

    def _damaged(self, slot: OpenEntry) -> None:
        """A block does not match its checksum: nobody is to open this entry again."""
        self._node.counters.corrupt += 1
        metrics.CACHE_DAMAGED.inc()
        self._hot.drop(slot.name)
        if slot.current():
            self._node.space.remove_entry(slot.path)

    # --- whole objects

    async def prefetch(self, source: Source) -> ObjectMeta:
        """Fetch it, and return when it is whole. Raises as `open`, and what the fetch fails with."""
        reading = await self.open_whole(source)
        reading.aclose()
        return reading.meta

    async def open_whole(self, source: Source) -> Reading:
        """As `open`, and returns when the fetch is over. Raises what that fails with, too."""
        reading = await self.open(source)
        if not isinstance(reading, FillReading):
            return reading
        try:
            await reading.finished()
            if reading.slot is None:
                return reading
        except BaseException:
            reading.aclose()
            raise
        reading.aclose()
        return self._entry_reading(source, reading.slot)

    async def members_of(self, source: Source, reading: Reading) -> tuple[Member, ...]:
        """The regular files of an open tar, in order.

        Raises:
            BadRequest: It is not a tar that can be trusted.
        """
        found = await self._index(reading)
        if isinstance(found, NoIndex):
            raise BadRequest(f"{source.label} has no members to read: {found.reason}", hint="read the whole object")
        return found

    async def _index(self, reading: Reading) -> Index:
        if isinstance(reading, EntryReading):
            try:
                found = await self._node.run_apart(reading.members)
            except (EntryInvalid, OSError):
                pass  # read the body itself, which is verified
            else:
                self._hot.keep_index(reading.slot, found)
                return found
        async with aclosing(reading.parts()) as parts:
            return await index_stream(as_bytes(self._node, parts), reading.meta.size)

    @property
    def disk_problem(self) -> str:
        """Why the disk can't be written to; empty while it can."""
        return self._node.disk.problem

    async def stat(self) -> CacheStat:
        usage = self._node.space.usage()
        return CacheStat(usage.entries, usage.used, self._node.space.capacity, len(self._fills), self._node.counters)

    # --- keeping house

    def _make_room(self) -> None:
        if self._evicting is None or self._evicting.done():
            self._evicting = self._node.detach(survive("evicting", self._evict_some))

    async def _evict_some(self) -> None:
        await self._node.run(self._node.space.make_room)

    def jobs(self) -> list[Periodic]:
        """What is to be done in the background, once the cache has started."""
        house = [Periodic("keep the cache in order", HOUSEKEEPING_SECONDS, self._keep_house)]
        return [*house, *Scrubber(self._node).jobs()]

    async def _keep_house(self) -> None:
        try:
            await self._sweep()
        finally:
            await self._evict_some()

    async def _sweep(self) -> None:
        await self._node.run(sweep, self._node.layout)


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
