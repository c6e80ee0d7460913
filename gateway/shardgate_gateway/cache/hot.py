"""Entries that this process has open, or has in memory: what makes a warm GET cost one `stat`.

A slot is never trusted by itself. Every lookup compares the file at the entry's path with the one that the slot was
made from, so what another process published, evicted or invalidated is seen at once.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from shardgate_gateway import metrics
from shardgate_gateway.cache.blocks import BLOCK, block_count
from shardgate_gateway.cache.entry import Entry, EntryInvalid
from shardgate_gateway.cache.layout import Identity, OpenFile
from shardgate_gateway.cache.members import memory_of

if TYPE_CHECKING:
    from shardgate_gateway.cache.members import Index
    from shardgate_gateway.cache.node import Node
    from shardgate_gateway.stores.base import ObjectMeta

MAX_OPEN = 512
"""Descriptors kept open for the next reader."""
MAX_REMEMBERED = 1 << 16
"""Files whose verified blocks are remembered, open or not; a byte per block."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
"""No descriptor is free: nobody's data is to blame."""
SLOT_BYTES = 1024
"""Memory of a slot beside its body, its texts and its index."""
TOUCH_SECONDS = 60.0
"""Recency is recorded on disk at most so often."""


class OpenEntry:
    """One entry. Either `content` or `entry` is set."""

    __slots__ = (
        "checked",
        "content",
        "entry",
        "identity",
        "members",
        "meta",
        "path",
        "size",
        "touched",
        "unchecked",
        "validated_at",
    )

    def __init__(
        self,
        path: str,
        identity: Identity,
        meta: ObjectMeta,
        validated_at: float,
        *,
        content: bytes | None,
        entry: Entry | None,
    ) -> None:
        assert meta.size is not None
        self.path = path
        self.identity = identity
        self.meta = meta
        self.size = meta.size
        self.validated_at = validated_at
        """When the source was last asked whether this is the current version (monotonic)."""
        self.content = content
        self.entry = entry
        self.checked = bytearray(block_count(self.size))
        """Per block: whether this process found it to match its checksum."""
        self.unchecked = 0 if content is not None else len(self.checked)
        self.touched = 0.0
        self.members: Index | None = None
        """The tar index, once somebody asked for it."""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[1]

    def current(self) -> bool:
        """Whether the entry at the path still is this one."""
        try:
            stat = os.stat(self.path)  # noqa: PTH116 (the one system call of a warm GET)
        except FileNotFoundError:
            return False
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size) == self.identity

    def touch(self, now: float) -> None:
        """Record that it was used, for eviction."""
        if now - self.touched > TOUCH_SECONDS:
            self.touched = now
            with suppress(OSError):  # just evicted, or not ours to touch: only the order of eviction suffers
                file = self.entry.file if self.entry is not None else OpenFile.reading(self.path)
                if Identity.of(os.fstat(file.fd)) == self.identity:  # by path, it might be a newer entry by now
                    os.utime(file.fd, ns=(time.time_ns(), self.identity.mtime_ns))

    def weight(self) -> int:
        """Bytes of memory that it takes, about."""
        meta = self.meta
        held = SLOT_BYTES + len(meta.key) + len(meta.etag) + len(meta.content_type or "") + len(self.checked)
        held += memory_of(self.members) if self.members is not None else 0
        return held + (len(self.content) if self.content is not None else 0)

    def verify(self, start: int, end: int) -> bool:
        """Check the blocks under bytes `[start, end)` that were not checked yet. May raise OSError."""
        assert self.entry is not None
        for number in range(start // BLOCK, block_count(end)):
            if not self.checked[number]:
                if not self.entry.verify(number, number + 1):
                    return False
                if not self.checked[number]:  # another thread may have done the same meanwhile
                    self.checked[number] = 1
        self.unchecked = self.checked.count(0)
        return True

    def trust(self) -> None:
        """Its checksums need no check (they were just computed, or the settings say so)."""
        self.checked = bytearray(b"\1" * len(self.checked))
        self.unchecked = 0


class HotSet:
    """Slots by entry name, the most recently used last, bounded in bytes (of all that they hold) and in descriptors."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory = memory_bytes
        self._slots: OrderedDict[str, OpenEntry] = OrderedDict()
        self._weights: dict[str, int] = {}
        self._held = 0
        self._open = 0
        self._checked: OrderedDict[tuple[str, Identity], bytearray] = OrderedDict()

    def get(self, name: str) -> OpenEntry | None:
        slot = self._slots.get(name)
        if slot is not None:
            self._slots.move_to_end(name)
        return slot

    def put(self, name: str, slot: OpenEntry) -> OpenEntry:
        self.drop(name)
        if slot.entry is not None:
            slot.checked = self._remembered(name, slot)
            slot.unchecked = slot.checked.count(0)
            self._open += 1
        self._slots[name] = slot
        self._weights[name] = slot.weight()
        self._held += self._weights[name]
        self._shrink()
        return slot

    def keep_index(self, slot: OpenEntry, members: Index) -> None:
        """Remember the tar index of a slot that was got from here, if there is memory for it."""
        before, slot.members = slot.members, members
        weight = slot.weight()
        if members is before or self._slots.get(slot.name) is not slot or weight > self._memory:
            slot.members = before
            return
        self._held += weight - self._weights[slot.name]
        self._weights[slot.name] = weight
        self._slots.move_to_end(slot.name)
        self._shrink()

    def _shrink(self) -> None:
        while len(self._slots) > 1 and (self._held > self._memory or self._open > MAX_OPEN):
            self.drop(next(iter(self._slots)))

    def drop(self, name: str) -> None:
        slot = self._slots.pop(name, None)
        if slot is not None:
            self._open -= slot.entry is not None
            self._held -= self._weights.pop(name)

    def shrink(self) -> None:
        """Give descriptors back."""
        for name in [name for name, slot in self._slots.items() if slot.entry is not None]:
            self.drop(name)

    def _remembered(self, name: str, slot: OpenEntry) -> bytearray:
        key = (name, slot.identity)
        checked = self._checked.pop(key, slot.checked)
        for number, done in enumerate(slot.checked):
            checked[number] |= done
        self._checked[key] = checked
        if len(self._checked) > MAX_REMEMBERED:
            self._checked.popitem(last=False)
        return checked


def load(node: Node, name: str) -> OpenEntry | None:
    """The entry at its path, if there is a valid one; a small one with its verified content. Blocks."""
    path = node.layout.entry(name)
    try:
        entry = Entry(path, name)
        small = entry.size <= node.settings.memory_object_bytes
        content = entry.content() if small else None
    except FileNotFoundError:
        return None
    except (EntryInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise
        node.counters.corrupt += 1
        metrics.CACHE_DAMAGED.inc()
        node.space.remove_entry(path)
        return None
    age = time.time() - entry.fetched_at  # negative after the clock was set back: ask again
    validated_at = time.monotonic() - age if age >= 0 else -math.inf
    return OpenEntry(path, entry.identity, entry.meta, validated_at, content=content, entry=None if small else entry)
