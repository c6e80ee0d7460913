"""The control file of a fill: how processes that want the same object find each other.

One small record says everything: which version is coming, how long it is, and the watermark, up to which the bytes of
the body file may be read. Only the holder of the file's OS lock writes it, whole, by one `pwrite`; everybody else
polls it by `pread`. A checksum covers it, so a torn read is seen and simply read again. (A memory map would save a
microsecond per poll, and turn a full disk into SIGBUS.) A record that a gateway of another version wrote is no record
here: its fill is discarded like one of which nothing is known.

The kernel drops the lock when its holder dies, however it dies, so who gets the lock of an unfinished fill is its heir.
The usual trap of lock files is that the path may have been unlinked, or be another file by now: after locking we look.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import xxhash

from shardgate_gateway.cache.entry import pack_meta, unpack_meta
from shardgate_gateway.cache.layout import unlink

if TYPE_CHECKING:
    from shardgate_gateway.stores.base import ObjectMeta

MAX_RECORD = 64 << 10
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
"""What a fill wrote before the machine went down may never have reached the disk."""


FORMAT = 4
"""Raised whenever a record changes: gateways of two versions may share a folder during an upgrade."""


class State(IntEnum):
    FILLING = 1
    """The source was asked. Once it answered there is a `meta`, and then the body grows."""
    DONE = 3
    """The filler is finished with the whole body, whether it became an entry or could not."""
    FAILED = 4


@dataclass(slots=True)
class Record:
    """What the filler says. `opened_at` is monotonic time, which all processes of one boot share."""

    body: str
    """File name of the growing body. It is recorded before the file exists."""
    opened_at: float
    state: State = State.FILLING
    watermark: int = 0
    reserved: int = 0
    meta: ObjectMeta | None = None
    failure: tuple[str, str, str] | None = None
    """Code, message, hint."""
    gaps: int = 0
    """Samples that are missing from the whole body (`Source.gaps`)."""
    boot: str = BOOT
    from_owner: bool = False
    """Whoever fills it may wait for the object's owner (`Source.from_owner`)."""

    @property
    def resumable(self) -> bool:
        """Whether another filler may go on with it."""
        return self.boot == BOOT and self.state is State.FILLING and self.meta is not None

    @property
    def complete(self) -> bool:
        """Whether the body file holds all bytes."""
        return self.meta is not None and self.meta.size == self.watermark

    def pack(self) -> bytes:
        meta = pack_meta(self.meta) if self.meta else None
        fields = [self.body, self.opened_at, self.state, self.watermark, self.reserved, meta, self.failure]
        fields += [self.gaps, self.boot, self.from_owner]
        data: bytes = msgpack.packb([FORMAT, *fields], unicode_errors="surrogatepass")
        return xxhash.xxh3_64_digest(data) + len(data).to_bytes(4, "little") + data

    @classmethod
    def unpack(cls, raw: bytes) -> Record | None:
        """The record in the bytes of a control file; None where they are not a whole record of this format."""
        data = raw[12 : 12 + int.from_bytes(raw[8:12], "little")]
        if not data or xxhash.xxh3_64_digest(data) != raw[:8]:
            return None
        try:
            return cls._of(msgpack.unpackb(data, unicode_errors="surrogatepass"))
        except Exception:  # noqa: BLE001 (whatever another version, or a bug of it, wrote: it is not for us)
            return None

    @classmethod
    def _of(cls, fields: list[Any]) -> Record:
        """Raises anything for what is not of this format."""
        version, body, opened_at, state, watermark, reserved, meta, failure, gaps, boot, from_owner = fields
        numbers = isinstance(opened_at, float) and all(isinstance(value, int) for value in (watermark, reserved, gaps))
        if version != FORMAT or not numbers or not isinstance(body, str) or "/" in body:
            raise ValueError("another format")
        told = None
        if failure is not None:
            code, message, hint = failure
            told = (str(code), str(message), str(hint))
        known = unpack_meta(meta) if meta else None
        return cls(body, opened_at, State(state), watermark, reserved, known, told, gaps, str(boot), bool(from_owner))


class Control:
    """An open control file, locked by us or not."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.locked = False
        self.inode = os.fstat(fd).st_ino
        self._seen = b""

    @classmethod
    def attach(cls, path: str) -> Control:
        """Open or create the control file at `path`, and lock it if nobody else has. May raise OSError."""
        while True:
            control = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            control.try_lock()
            if control.linked():
                return control
            control.close()

    def try_lock(self) -> bool:
        if not self.locked:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.locked = True
        return True

    def linked(self) -> bool:
        """Whether the path still leads to this file: nobody invalidated, finished or replaced the fill."""
        try:
            return Path(self.path).stat().st_ino == self.inode
        except FileNotFoundError:
            return False

    def write(self, record: Record) -> None:
        os.pwrite(self.fd, record.pack(), 0)

    def read(self) -> Record | None:
        return Record.unpack(os.pread(self.fd, MAX_RECORD, 0))

    def news(self) -> Record | None:
        """The record, if it is another one than at the last call."""
        raw = os.pread(self.fd, MAX_RECORD, 0)
        if raw == self._seen:
            return None
        record = Record.unpack(raw)
        if record is not None:
            self._seen = raw
        return record

    def remove(self) -> None:
        """Unlink it, if it is still there. Only for the holder of the lock: anybody else may hit the next fill's."""
        if self.linked():
            unlink(self.path)

    def close(self) -> None:
        """Gives the lock back, too."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close
    """A lock must not outlive the last one who knows of it."""
