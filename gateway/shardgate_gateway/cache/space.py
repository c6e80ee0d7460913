"""How much of the disk the cache uses, counted over all processes, and making room.

A fill reserves its bytes before it writes them, so the cache never grows beyond its capacity. The count lives in one small
file under a lock. A process that dies leaves its reservation behind, and a rename may replace an entry that another
process is just evicting, so the count may drift; every eviction pass looks at the real files and sets it right.

Recency is the access time of an entry's file. It is set explicitly (`Slot.touch`), at most once a minute, because
mounts with `relatime` or `noatime` don't; the modification time is never touched.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.cache.control import Record
from shardgate_gateway.cache.layout import Layout, unlink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.settings import CacheSettings

COUNTS = struct.Struct("<qq")
AUTOMATIC_SHARE = 0.8
"""Of the disk's free space, where no capacity is configured."""


class Usage(NamedTuple):
    """Bytes of entries and reserved by fills; number of entries."""

    used: int
    entries: int


class Found(NamedTuple):
    """An entry file as a scan saw it."""

    accessed: int
    size: int
    path: str


class Space:
    """All methods block for moments (a lock, a page of a file), except `make_room` and `recount`, which scan the disk."""

    def __init__(self, layout: Layout, settings: CacheSettings) -> None:
        self._layout = layout
        self._thread_lock = threading.Lock()  # flock does not tell threads apart
        self._fd = os.open(layout.space, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        usage = self.recount()
        self.capacity = settings.capacity_bytes or int(AUTOMATIC_SHARE * (_free(layout.root) + usage.used))
        self._high = int(settings.high_watermark * self.capacity)
        self._low = int(settings.low_watermark * self.capacity)

    def close(self) -> None:
        os.close(self._fd)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._thread_lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def usage(self) -> Usage:
        raw = os.pread(self._fd, COUNTS.size, 0)
        return Usage(*COUNTS.unpack(raw)) if len(raw) == COUNTS.size else Usage(0, 0)

    def _set(self, usage: Usage) -> Usage:
        usage = Usage(max(0, usage.used), max(0, usage.entries))
        os.pwrite(self._fd, COUNTS.pack(*usage), 0)
        return usage

    def adjust(self, used: int, entries: int = 0) -> None:
        with self._locked():
            now = self.usage()
            self._set(Usage(now.used + used, now.entries + entries))

    def reserve(self, count: int) -> bool:
        """Take `count` bytes if they can be had, after evicting if need be."""
        if count > self.capacity:
            return False
        if not self._take(count):
            self.make_room(count)
            return self._take(count)
        return True

    def _take(self, count: int) -> bool:
        with self._locked():
            now = self.usage()
            if now.used + count > self.capacity:
                return False
            self._set(Usage(now.used + count, now.entries))
            return True

    def crowded(self) -> bool:
        return self.usage().used > self._high

    def remove_entry(self, path: str) -> bool:
        """Unlink an entry's file; who reads it is not disturbed. Says whether this call did it."""
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:
            return False
        if not unlink(path):
            return False
        self.adjust(-size, -1)
        return True

    def make_room(self, count: int = 0) -> tuple[int, int]:
        """Evict the least recently used entries until `count` more bytes fit under the low watermark.

        Returns how many entries and bytes went. One process evicts at a time, and the next one looks again first.
        """
        folder = os.open(self._layout.entries, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            used = self.recount().used
            gone, freed = 0, 0
            if used + count <= (self.capacity if count else self._high):
                return gone, freed
            for entry in sorted(scan(self._layout)):
                if used - freed + count <= self._low:
                    break
                if self.remove_entry(entry.path):
                    gone += 1
                    freed += entry.size
            return gone, freed
        finally:
            os.close(folder)

    def recount(self) -> Usage:
        """Count what is really there."""
        with self._locked():
            sizes = [entry.size for entry in scan(self._layout)]
            return self._set(Usage(sum(sizes) + sum(_reserved(self._layout)), len(sizes)))


def scan(layout: Layout) -> Iterator[Found]:
    """Every entry file, in no order."""
    with os.scandir(layout.entries) as folders:
        for folder in folders:
            with os.scandir(folder.path) as files:
                for file in files:
                    try:
                        stat = file.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield Found(stat.st_atime_ns, stat.st_size, file.path)


def _reserved(layout: Layout) -> Iterator[int]:
    with os.scandir(layout.fills) as files:
        for file in files:
            if "." not in file.name:
                record = peek(file.path)
                yield record.reserved if record else 0


def peek(path: str) -> Record | None:
    """The record of a control file, if there is one."""
    try:
        with open(path, "rb", buffering=0) as file:
            return Record.unpack(file.read())
    except FileNotFoundError:
        return None


def _free(folder: str) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
