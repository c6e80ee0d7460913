"""How much of the disk the cache uses, counted over all processes, and making room.

A fill reserves its bytes before it writes them, so the cache never grows beyond its capacity. The count lives in one
small file under a lock. What is reserved also stands in the records of the fills, which a recount reads; so whoever
changes a reservation writes its record under the same lock (`tell`). A process that dies leaves its reservation behind,
and an invalidated fill has no record any more; a recount, which looks at the real files, sets that right.

Recency is the access time of an entry's file. It is set explicitly (`OpenEntry.touch`), at most once a minute, because
mounts with `relatime` or `noatime` don't; the modification time is never touched.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway import metrics
from shardgate_gateway.cache.control import MAX_RECORD, Record
from shardgate_gateway.cache.layout import Layout, unlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardgate_gateway.cache.counters import Counters
    from shardgate_gateway.settings import CacheSettings

COUNTS = struct.Struct("<qq")
AUTOMATIC_SHARE = 0.8
"""Of the disk's free space, where no capacity is configured."""


def nothing() -> None:
    pass


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
    """All methods block for moments (a lock, a page of a file); `make_room` and `recount` scan the disk."""

    def __init__(self, layout: Layout, settings: CacheSettings, counters: Counters) -> None:
        self._layout = layout
        self._counters = counters
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

    def release(self, count: int, tell: Callable[[], None] = nothing) -> None:
        """Give back what was reserved; `tell` takes it out of the record."""
        with self._locked():
            try:
                tell()
            finally:
                self._change(-count, 0)

    def _change(self, used: int, entries: int) -> None:
        now = self.usage()
        self._set(Usage(now.used + used, now.entries + entries))

    def reserve(self, count: int, tell: Callable[[], None] = nothing) -> bool:
        """Take `count` bytes if they can be had, after evicting if need be; `tell` writes that into a record."""
        if count > self.capacity:
            return False
        if not self._take(count, tell):
            self.make_room(count)
            return self._take(count, tell)
        return True

    def _take(self, count: int, tell: Callable[[], None]) -> bool:
        with self._locked():
            if self.usage().used + count > self.capacity:
                return False
            tell()
            self._change(count, 0)
            return True

    def crowded(self) -> bool:
        return self.usage().used > self._high

    def remove_entry(self, path: str) -> bool:
        """Unlink an entry's file; who reads it is not disturbed. Says whether this call did it."""
        with self._locked():
            size = _size(path)
            if size is None or not unlink(path):
                return False
            self._change(-size, -1)
            return True

    def move_in(self, body: str, entry: str, size: int, reserved: int, tell: Callable[[], None] = nothing) -> bool:
        """Rename a body, of `size` bytes with its header and footer, to an entry; False if it was unlinked meanwhile.

        Its reservation ends here either way. A recount can't come between the rename and the count.
        """
        with self._locked():
            replaced = _size(entry)
            try:
                Path(body).rename(entry)
            except FileNotFoundError:
                tell()
                self._recount()  # the record was unlinked too, and a recount may have missed it
                return False
            tell()
            self._change(size - reserved - (replaced or 0), int(replaced is None))
            return True

    def make_room(self, count: int = 0) -> None:
        """Evict the least recently used entries until `count` more bytes fit under the low watermark.

        One process evicts at a time, and the next one looks again first: perhaps it was enough.
        """
        folder = os.open(self._layout.entries, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            used = self.recount().used
            if used + count <= (self.capacity if count else self._high):
                return
            for entry in sorted(scan(self._layout)):
                if used + count <= self._low:
                    break
                if self.remove_entry(entry.path):
                    used -= entry.size
                    self._counters.evictions += 1
                    self._counters.evicted_bytes += entry.size
                    metrics.CACHE_EVICTIONS.inc()
                    metrics.CACHE_EVICTED_BYTES.inc(entry.size)
        finally:
            os.close(folder)

    def recount(self) -> Usage:
        """Count what is really there."""
        with self._locked():
            return self._recount()

    def _recount(self) -> Usage:
        sizes = [entry.size for entry in scan(self._layout)]
        return self._set(Usage(sum(sizes) + sum(_reserved(self._layout)), len(sizes)))


def scan(layout: Layout) -> Iterator[Found]:
    """Every entry file, in no order."""
    with os.scandir(layout.entries) as folders:
        for folder in folders:
            if not folder.is_dir(follow_symlinks=False):
                continue
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
    """The record of a control file, if there is one that this version can read."""
    try:
        with Path(path).open("rb") as file:
            return Record.unpack(file.read(MAX_RECORD))
    except OSError:
        return None


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return None


def _free(folder: str) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize
