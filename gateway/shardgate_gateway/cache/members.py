"""Where the members of a tar lie: name, offset and size of every regular file.

The scanner does no I/O. It is a generator that asks for one piece of the archive after another, `(offset, length)`,
always forwards, and is sent the bytes: `pread` drives it over a cached file, which costs two small reads per member
whatever their sizes, and a stream drives it where nothing is cached.

It understands ustar, PAX (path and size), GNU long names and base-256 numbers. It is strict where `tarfile` guesses: a
header with a bad checksum, a negative size, a member that reaches beyond the end, or a sparse file makes the whole
index void. No index is better than one that points at the wrong bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Generator

RECORD = 512
MAX_EXTENSION = 1 << 20
"""Bytes of the largest PAX or long-name record that is believed."""
BASE_256, NEGATIVE = 0o200, 0o377
"""First byte of a number that is not written in octal digits."""
OTHER_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
"""Mode, owner, group, time, device: not needed, but a header where they are nonsense is none."""
MAX_DIGITS = 19
REGULAR = b"0\0007"
PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK, SPARSE = b"x", b"g", b"L", b"K", b"S"
EXTENSIONS = (PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK)
WITHOUT_DATA = b"123456"
"""Links, devices, folders, pipes: their size field, if any, is not followed by data."""
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")


class Member(NamedTuple):
    name: str
    offset: int
    """First byte of its data in the archive."""
    size: int


class NotATar(ValueError):
    """These bytes are not an archive whose members can be trusted."""


def scan(size: int) -> Generator[tuple[int, int], bytes, tuple[Member, ...]]:
    """Ask for pieces of an archive of `size` bytes; returns its members in order.

    Raises:
        NotATar: On the first thing that is not as it must be.
    """
    found: list[Member] = []
    everywhere: dict[str, str] = {}  # from PAX global headers
    here: dict[str, str] = {}  # for the next member only
    at = 0
    while at + RECORD <= size:
        header = yield at, RECORD
        at += RECORD
        if header.count(0) == RECORD:
            break
        kind, length = _check(header)
        if kind in EXTENSIONS:
            if length > min(MAX_EXTENSION, size - at):
                raise NotATar(f"an extension of {length} bytes")
            _extend(kind, (yield at, length) if length else b"", everywhere, here)
        else:
            member = _member(header, kind, at, length, everywhere | here)
            here = {}
            length = member.size
            if at + length > size:
                raise NotATar(f"a member of {length} bytes reaches beyond the end")
            if kind in REGULAR and not member.name.endswith("/"):
                found.append(member)
        at += _padded(length)
    if not at:
        raise NotATar("empty")
    return tuple(found)


def _member(header: bytes, kind: bytes, at: int, length: int, extended: dict[str, str]) -> Member:
    """What follows this header, regular or not; what has no data has no size."""
    if kind == SPARSE or any(key.startswith("GNU.sparse") for key in extended):
        raise NotATar("sparse members are not indexed")
    name = extended.get("path") or _name(header)
    if kind in WITHOUT_DATA:
        return Member(name, at, 0)
    length = _pax_size(extended.get("size"), length)
    if length and name.endswith("/"):  # how archives before ustar spell a folder
        raise NotATar("a folder with data")
    return Member(name, at, length)


def _check(header: bytes) -> tuple[bytes, int]:
    """The type and the size of a header whose checksum and number fields are in order."""
    stated = _number(header[148:156])
    total = sum(header) - sum(header[148:156]) + 256  # the field itself counts as eight spaces
    if stated != total:
        raise NotATar("a header's checksum does not match")
    for first, last in OTHER_NUMBERS:
        if header[first] != NEGATIVE:  # a time before 1970 is odd, and no reason to give up
            _number(header[first:last])
    return header[156:157], _number(header[124:136])


@lru_cache(4096)
def _number(field: bytes) -> int:
    """An octal or base-256 field. A negative number is nothing that an archive may hold here."""
    if field[0] == BASE_256:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise NotATar("a number field is not octal")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if prefix and header[257:265] == b"ustar\x0000":
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _extend(kind: bytes, data: bytes, everywhere: dict[str, str], here: dict[str, str]) -> None:
    if kind == GNU_NAME:
        here["path"] = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    elif kind == PAX:
        here.update(_pax(data))
    elif kind == PAX_GLOBAL:
        everywhere.update(_pax(data))


def _pax(data: bytes) -> dict[str, str]:
    """Records of the form `length key=value` and a newline, where the length counts all of the record."""
    values: dict[str, str] = {}
    data = data.rstrip(b"\0")
    at = 0
    while at < len(data):
        match = _PAX_RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise NotATar("a PAX record is malformed")
        key = match[2].decode("utf-8", "surrogateescape")
        values[key] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        at = end
    return values


def _pax_size(value: str | None, length: int) -> int:
    if value is None:
        return length
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise NotATar("a PAX size is not a number")
    return int(value)


def _padded(length: int) -> int:
    return -(-length // RECORD) * RECORD


def index(read: Callable[[int, int], bytes], size: int) -> tuple[Member, ...] | None:
    """The members, read with `read(offset, length)`; None where it is no tar."""
    scanner = scan(size)
    try:
        wanted = next(scanner)
        while True:
            wanted = scanner.send(read(*wanted))
    except NotATar:
        return None
    except StopIteration as done:
        members: tuple[Member, ...] = done.value
        return members


def index_bytes(content: bytes) -> tuple[Member, ...] | None:
    return index(lambda offset, length: content[offset : offset + length], len(content))


async def index_stream(chunks: AsyncIterable[bytes | memoryview], size: int) -> tuple[Member, ...] | None:
    """The same over a stream from the first byte on, which is read only as far as needed."""
    scanner = scan(size)
    begin, held = 0, bytearray()  # `held` are the archive's bytes from `begin` on
    try:
        offset, length = next(scanner)
        async for chunk in chunks:
            held += chunk
            while begin + len(held) >= offset + length:
                del held[: offset - begin]
                begin = offset
                offset, length = scanner.send(bytes(held[:length]))
            useless = min(offset - begin, len(held))
            del held[:useless]
            begin += useless
    except NotATar:
        return None
    except StopIteration as done:
        members: tuple[Member, ...] = done.value
        return members
    return None


def pack(members: tuple[Member, ...] | None) -> bytes:
    return b"" if members is None else bytes(msgpack.packb([_raw(m) for m in members]))


def unpack(data: bytes) -> tuple[Member, ...] | None:
    if not data:
        return None
    return tuple(Member(name.decode("utf-8", "surrogateescape"), at, size) for name, at, size in msgpack.unpackb(data))


def _raw(member: Member) -> tuple[bytes, int, int]:
    return member.name.encode("utf-8", "surrogateescape"), member.offset, member.size
