"""A whole body in one file that says all about itself.

    0      header: magic, length and checksum of the meta, meta (msgpack); zeros up to 4096
    4096   body
    then   one xxh3_64 per block of the body, the tar members if it is a tar, and a trailer of fixed size

The file is written once, header last, and becomes visible by one rename. It is parsed strictly: the name, every
length and every checksum must fit, else it is no entry. So whatever a crash or a failing disk leaves behind is found
out at the latest when its block is first read, and costs a fetch, never a wrong byte.
"""

from __future__ import annotations

import os
import struct
from array import array
from datetime import UTC, datetime
from typing import Any

import msgpack
import xxhash

from shardgate_gateway.cache import members as tar
from shardgate_gateway.cache.blocks import BLOCK, block_count, sums_of
from shardgate_gateway.cache.layout import BODY_OFFSET, Identity, OpenFile, read_fully, write_fully
from shardgate_gateway.stores.base import ObjectMeta

HEADER = struct.Struct("<8sIQ")
"""Magic, bytes of the meta, checksum of the meta."""
TRAILER = struct.Struct("<IQQQQ8s")
"""Bytes per block, bytes of the member index, checksum of the sums, of the member index, of these four, magic."""
MAGIC = b"shardgt\x01"
MAX_LABEL = 512


class EntryInvalid(ValueError):
    """The file is not a whole entry of this format."""


class MetaTooLarge(OSError):
    """Key and etag do not fit into a header, so this object can't be kept."""


def pack_meta(meta: ObjectMeta) -> list[Any]:
    modified = meta.last_modified.timestamp() if meta.last_modified else None
    return [meta.key, meta.size, meta.etag, meta.weak, modified, meta.content_type]


def unpack_meta(data: list[Any]) -> ObjectMeta:
    key, size, etag, weak, modified, content_type = data
    when = None if modified is None else datetime.fromtimestamp(modified, UTC)
    return ObjectMeta(key, size, etag, weak, when, content_type)


def index_of(fd: int, size: int) -> bytes:
    """The packed member index of a whole body at `BODY_OFFSET` of a file. Raises OSError."""
    return tar.pack(tar.index(lambda offset, length: os.pread(fd, length, BODY_OFFSET + offset), size))


def seal(fd: int, name: str, label: str, fetched_at: float, meta: ObjectMeta, sums: array[int], index: bytes) -> None:
    """Turn a file with a whole body at `BODY_OFFSET` into an entry.

    Raises:
        MetaTooLarge: See there.
        OSError: The disk is full or failing, or the body is not as long as the meta says.
    """
    size = meta.size
    if size is None or len(sums) != block_count(size):
        raise AssertionError("only a whole body is sealed")
    header = pack_header(name, label, fetched_at, meta)
    footer = pack_footer(sums, index)
    end = BODY_OFFSET + size + len(footer)
    write_fully(fd, [footer], BODY_OFFSET + size)
    os.ftruncate(fd, end)  # a filler that died may have written farther than the body turned out to be
    write_fully(fd, [header], 0)
    if os.fstat(fd).st_size != end:
        raise OSError(f"{label}: the body on disk is not as long as it should be")


def entry_bytes(size: int) -> int:
    """Bytes of the file of an entry with a body of `size` bytes, without its member index."""
    return BODY_OFFSET + size + 8 * block_count(size) + TRAILER.size


def pack_header(name: str, label: str, fetched_at: float, meta: ObjectMeta) -> bytes:
    data = msgpack.packb([name, label[:MAX_LABEL], fetched_at, pack_meta(meta)], unicode_errors="surrogatepass")
    header = HEADER.pack(MAGIC, len(data), xxhash.xxh3_64_intdigest(data)) + data
    if len(header) > BODY_OFFSET:
        raise MetaTooLarge(f"{label[:MAX_LABEL]}: key and etag are too long to be cached")
    return bytes(header.ljust(BODY_OFFSET, b"\0"))


def pack_footer(sums: array[int], index: bytes) -> bytes:
    raw = sums.tobytes()
    checked = struct.pack("<IQQQ", BLOCK, len(index), xxhash.xxh3_64_intdigest(raw), xxhash.xxh3_64_intdigest(index))
    return raw + index + checked + struct.pack("<Q8s", xxhash.xxh3_64_intdigest(checked), MAGIC)


class Entry:
    """An entry file that is open and whose header and trailer are in order. Its blocks are not verified yet."""

    __slots__ = (
        "_index_at",
        "_index_sum",
        "_sums",
        "_sums_sum",
        "fetched_at",
        "file",
        "identity",
        "label",
        "meta",
        "size",
    )

    def __init__(self, path: str, name: str) -> None:
        """Raises FileNotFoundError, EntryInvalid, OSError."""
        self.file = OpenFile.reading(path)
        fd = self.file.fd
        self.identity = Identity.of(os.fstat(fd))
        try:
            stored, self.label, self.fetched_at, packed = _header(read_fully(fd, 0, BODY_OFFSET))
            self.meta = unpack_meta(packed)
        except (struct.error, ValueError, TypeError, OverflowError) as error:
            raise EntryInvalid(f"{path}: {error}") from error
        if stored != name or not isinstance(self.meta.size, int):
            raise EntryInvalid(f"{path} holds {stored}")
        self.size: int = self.meta.size
        self._sums: array[int] | None = None
        self._read_trailer(path)

    def _read_trailer(self, path: str) -> None:
        raw = read_fully(self.file.fd, max(0, self.identity.size - TRAILER.size), TRAILER.size)
        if len(raw) != TRAILER.size:
            raise EntryInvalid(f"{path} is too short")
        block, index_size, self._sums_sum, self._index_sum, check, magic = TRAILER.unpack(raw)
        self._index_at = BODY_OFFSET + self.size + 8 * block_count(self.size)
        whole = self._index_at + index_size + TRAILER.size
        if (
            magic != MAGIC
            or block != BLOCK
            or check != xxhash.xxh3_64_intdigest(raw[:28])
            or whole != self.identity.size
        ):
            raise EntryInvalid(f"{path} has no valid trailer")

    def verify(self, first: int, last: int) -> bool:
        """Whether the blocks `[first, last)` are what was published. May raise OSError."""
        if self._sums is None:
            raw = read_fully(self.file.fd, BODY_OFFSET + self.size, 8 * block_count(self.size))
            if xxhash.xxh3_64_intdigest(raw) != self._sums_sum:
                return False
            self._sums = array("Q", raw)
        buffer = bytearray(min(BLOCK, self.size))
        for number in range(first, last):
            length = min(BLOCK, self.size - number * BLOCK)
            view = memoryview(buffer)[:length]
            if os.preadv(self.file.fd, [view], BODY_OFFSET + number * BLOCK) != length:
                return False
            if xxhash.xxh3_64_intdigest(view) != self._sums[number]:
                return False
        return True

    def members(self) -> tar.Index:
        """The tar index. Raises EntryInvalid, OSError."""
        raw = read_fully(self.file.fd, self._index_at, self.identity.size - TRAILER.size - self._index_at)
        if xxhash.xxh3_64_intdigest(raw) != self._index_sum:
            raise EntryInvalid(f"{self.label} has a damaged member index")
        return tar.unpack(raw)

    def content(self) -> bytes:
        """The whole body, verified. Raises EntryInvalid, OSError."""
        data = read_fully(self.file.fd, BODY_OFFSET, self.size)
        sums = read_fully(self.file.fd, BODY_OFFSET + self.size, 8 * block_count(self.size))
        if len(data) != self.size or sums_of(data).tobytes() != sums:
            raise EntryInvalid(f"the body of {self.label} does not match its checksums")
        return data


def _header(raw: bytes) -> list[Any]:
    magic, length, check = HEADER.unpack_from(raw)
    data = raw[HEADER.size : HEADER.size + length]
    if magic != MAGIC or xxhash.xxh3_64_intdigest(data) != check:
        raise ValueError("no valid header")
    fields: list[Any] = msgpack.unpackb(data, unicode_errors="surrogatepass")
    return fields
