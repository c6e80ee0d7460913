"""A body on its way to an entry: who may write it, and the moment when it becomes one.

**The order of things**, and why a stale version is never published:

1. The control record names the body file, then the body file is created, and only then the source is asked.
2. A whole body becomes an entry by renaming its file, and by nothing else; a small one, too.
3. `invalidate` unlinks the control file, then every body file of this entry (`discard_fills`), then the entry.

After a PUT, `invalidate` finds either the body of a fill that asked before, and then the rename of (2) fails with
ENOENT; or it finds the entry that the rename made, and removes that. A body created after its listing belongs to a
fill that asks the source later still, and gets the new version. No lock takes part, so a process that hangs holds
nobody up. Unlinking the control file only keeps later readers from joining; those who have joined read their version
to its end.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_gateway.cache.blocks import BLOCK, BlockSums
from shardgate_gateway.cache.control import Control, Record, State
from shardgate_gateway.cache.entry import entry_bytes, index_of, seal
from shardgate_gateway.cache.layout import BODY_OFFSET, Identity, Layout, OpenFile, read_fully, unlink

if TYPE_CHECKING:
    from array import array

    import xxhash

    from shardgate_gateway.cache.node import Node
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.stores.base import ObjectMeta

RESERVE_STEP = 64 << 20
"""Bytes reserved at a time for a body of unknown length."""


class PartialEntry:
    """Held by whoever holds the lock of the control file. Its methods block, except `save`."""

    def __init__(self, node: Node, source: Source, control: Control, record: Record, body: OpenFile) -> None:
        self.record = record
        self.body = body
        self.file = OpenFile.reading(f"/proc/self/fd/{body.fd}")
        """The same for readers, who must not be able to write."""
        self._node = node
        self._source = source
        self._control = control

    @classmethod
    def attach(cls, node: Node, source: Source) -> tuple[Control, PartialEntry | None]:
        """Join the fill that is there (no draft), inherit one whose filler died, or begin a new one.

        Raises:
            OSError: No file can be made.
        """
        layout, name = node.layout, source.entry_name
        while True:
            control = Control.attach(layout.control(name))
            if not control.locked:
                return control, None
            try:
                draft = cls._take(node, source, control)
            except BaseException:
                control.close()
                raise
            if draft is not None:
                return control, draft
            control.close()

    @classmethod
    def _take(cls, node: Node, source: Source, control: Control) -> PartialEntry | None:
        """Begin a new fill, or resume the one that is there; remove it, and return None, where that can't be."""
        record = control.read()
        if record is None:
            body = f"{source.entry_name}.{secrets.token_hex(8)}"
            record = Record(body=body, opened_at=time.monotonic(), from_owner=source.from_owner)
            control.write(record)
            return cls(node, source, control, record, OpenFile.creating(node.layout.body(record.body)))
        if record.resumable:
            try:
                return cls(node, source, control, record, OpenFile.writing(node.layout.body(record.body)))
            except FileNotFoundError:  # it became an entry just before its filler died
                pass

        cls.forget(node, control, record)
        return None

    @staticmethod
    def forget(node: Node, control: Control, record: Record | None) -> None:
        """Remove what a filler that died has left, if anything is known of it. Holds the lock; raises OSError."""

        def remove() -> None:
            control.remove()
            if record is not None:
                unlink(node.layout.body(record.body))

        node.space.release(record.reserved if record is not None else 0, remove)

    @classmethod
    def inherit(cls, node: Node, source: Source, control: Control, record: Record, file: OpenFile) -> PartialEntry:
        """Become the filler of a body that is open for reading already, even if it was unlinked."""
        return cls(node, source, control, record, OpenFile.writing(f"/proc/self/fd/{file.fd}"))

    @property
    def _path(self) -> str:
        return self._node.layout.body(self.record.body)

    def save(self) -> None:
        self._control.write(self.record)

    def reserve(self, meta: ObjectMeta) -> bool:
        """Take the space that this version needs, or that a body of unknown length needs first."""
        wanted = RESERVE_STEP if meta.size is None else entry_bytes(meta.size)
        return self._reserve(wanted)

    def _reserve(self, count: int) -> bool:
        def tell() -> None:
            self.record.reserved += count
            self.save()

        return self._node.space.reserve(count, tell)

    def reserve_more(self, end: int) -> None:
        """Called before bytes up to `end` are written; raises OSError when there is no space for them."""
        size = self.record.meta.size if self.record.meta is not None else None
        while entry_bytes(end) > self.record.reserved:
            self._must_reserve(RESERVE_STEP if size is None else entry_bytes(max(size, end)) - self.record.reserved)

    def _must_reserve(self, count: int) -> None:
        if count > 0 and not self._reserve(count):
            raise OSError("the cache has no space left")

    def abandon(self) -> None:
        """Leave what is there to whoever wants to go on, and the rest of its space to others. Raises OSError."""
        if not self.record.watermark:
            self.forget(self._node, self._control, self.record)
            return
        surplus = max(0, self.record.reserved - entry_bytes(self.record.watermark))
        self.record.reserved -= surplus
        self._node.space.release(surplus, self.save)

    def rehash(self, length: int, before: xxhash.xxh3_128 | None) -> BlockSums:
        """Checksums of what a filler that died has left; `before` becomes the digest of it all."""
        sums = BlockSums()
        while sums.position < length:
            data = read_fully(self.file.fd, BODY_OFFSET + sums.position, min(BLOCK, length - sums.position))
            if not data:
                raise OSError("the body is shorter than its watermark")
            sums.update(data)
            if before is not None:
                before.update(data)
        return sums

    def content(self, meta: ObjectMeta) -> bytes:
        """The whole body, for memory. Raises OSError."""
        assert meta.size is not None
        return read_fully(self.file.fd, BODY_OFFSET, meta.size)

    def publish(self, meta: ObjectMeta, sums: array[int]) -> Identity | None:
        """Make the body in the file an entry. Returns None if it was invalidated; raises OSError."""
        assert meta.size is not None
        index = index_of(self.body.fd, meta.size)
        self._must_reserve(entry_bytes(meta.size) + len(index) - self.record.reserved)
        seal(self.body.fd, self._source.entry_name, self._source.label, self._fetched_at(), meta, sums, index)
        return self._rename()

    def _fetched_at(self) -> float:
        """In wall-clock time, which survives the process."""
        return time.time() - (time.monotonic() - self.record.opened_at)

    def _rename(self) -> Identity | None:
        """The one moment at which a body becomes an entry."""
        path, fsync = Path(self._node.layout.entry(self._source.entry_name)), self._node.settings.fsync
        if fsync:
            os.fsync(self.body.fd)
        now = time.time_ns()
        os.utime(self.body.fd, ns=(now, now))
        identity = Identity.of(os.fstat(self.body.fd))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        reserved, self.record.reserved = self.record.reserved, 0
        if not self._node.space.move_in(self._path, str(path), identity.size, reserved, self.save):
            return None  # invalidated
        self._node.counters.published += 1
        if fsync:
            _fsync_folder(path.parent)
        return identity

    def leave(self, failure: tuple[str, str, str] | None = None) -> None:
        """Say the last word, and remove what did not become an entry. Raises OSError."""
        reserved, self.record.reserved = self.record.reserved, 0
        self.record.state = State.DONE if failure is None else State.FAILED
        self.record.failure = failure
        self._node.space.release(reserved, self._vanish)

    def _vanish(self) -> None:
        """The body goes first: a follower that hears the last word must not begin with what is left of it."""
        try:
            unlink(self._path)
        finally:
            try:
                self.save()
            finally:
                self._control.remove()


def discard_fills(layout: Layout, name: str) -> None:
    """Keep every fill of this entry that is under way from being joined or published."""
    unlink(layout.control(name))
    for path in layout.bodies(name):
        unlink(path)


def _fsync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
