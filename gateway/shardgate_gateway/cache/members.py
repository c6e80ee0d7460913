"""Where the members of a tar lie: name, offset and size of every regular file.

The grammar is `shardgate.tar`, by which workers read, too; so the index says of no archive what a worker would not. It
is driven over a cached file with two small reads per member whatever their sizes, and over a stream where nothing is
cached. An archive that breaks the grammar has no index at all: none is better than one that points at the wrong bytes.

A hard link to a file before it in the archive is listed with that file's bytes. Symbolic links, folders, devices and
sparse files have no bytes of their own in the archive and are not listed. Compressed archives have no index, since no
range of their bytes is a member.

The index is made of every object, whoever wrote it, so its cost is bounded: in bytes read, in members, and in memory.
Beyond that an archive has no index, and says so; the object itself is served as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import msgpack

from shardgate.tar import BadTar, Scanner
from shardgate.tar.header import BLOCK
from shardgate.tar.magic import compression_of
from shardgate.tar.scanner import FILE, HARD_LINK

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable
    from typing import TypeAlias

    from shardgate.tar import TarMember

MAX_MEMBERS = 1 << 18
"""A shard of a thousandth of that is usual; looking one up is linear."""
MAX_NAMES_BYTES = 16 << 20
"""Of all names together: 64 bytes each for the most members."""
MAX_INDEX_BYTES = MAX_NAMES_BYTES + 24 * MAX_MEMBERS
"""Of an index in its entry on disk."""
MAX_HEADER_BYTES = 256 << 20
"""Headers, zeros and extended headers that are read of one archive: at most about a second of a processor."""
MAX_EXTENDED_BYTES = 32 << 20
"""Extended headers, which cost more per byte."""
MEMBER_MEMORY = 220
"""Bytes of a member in memory besides its name: the tuple, its numbers, the string's head."""
LISTED = frozenset((FILE, HARD_LINK))


class Member(NamedTuple):
    name: str
    offset: int
    """First byte of its data in the archive."""
    size: int


@dataclass(frozen=True, slots=True)
class NoIndex:
    """Why an object has no members to read."""

    reason: str


Index: TypeAlias = "tuple[Member, ...] | NoIndex"
NOT_A_TAR: Final = NoIndex("it is not an intact tar archive")


class _Builder:
    """The index of an archive while its headers pass."""

    def __init__(self, size: int | None) -> None:
        self.scanner = Scanner(size=size)
        self._found: list[Member] = []
        self._by_name: dict[str, Member] | None = None  # once there is a hard link
        self._names_bytes = 0
        self._header_bytes = 0
        self._extended_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take what the scanner wanted. Raises BadTar, _Void."""
        self._header_bytes += len(data)
        if len(data) > BLOCK:
            self._extended_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES or self._extended_bytes > MAX_EXTENDED_BYTES:
            raise _Void("its headers are too large to be indexed")
        try:
            member = self.scanner.feed(data)
        except BadTar:
            if not self.scanner.at and (kind := compression_of(data)):
                raise _Void(f"it is compressed ({kind}); archpath reads members of plain tars") from None
            raise
        if member is not None and member.kind in LISTED:
            self._add(member)

    def _add(self, member: TarMember) -> None:
        found = Member(member.name, member.start, member.size)
        if member.kind == HARD_LINK:
            if self._by_name is None:
                self._by_name = {each.name: each for each in self._found}
            target = self._by_name.get(member.link)
            if target is None:
                return
            found = target._replace(name=member.name)
        if self._by_name is not None:
            self._by_name[found.name] = found
        self._names_bytes += len(found.name) if found.name.isascii() else 4 * len(found.name)
        if len(self._found) == MAX_MEMBERS or self._names_bytes > MAX_NAMES_BYTES:
            raise _Void(f"it has more than {MAX_MEMBERS} members, or longer names than are indexed")
        self._found.append(found)

    def result(self) -> Index:
        return tuple(self._found)


class _Void(Exception):
    """It may be a tar, and gets no index."""


def index(read: Callable[[int, int], bytes], size: int) -> Index:
    """The members, read with `read(offset, length)`."""
    builder = _Builder(size)
    scanner = builder.scanner
    try:
        while not scanner.is_done:
            builder.feed(read(scanner.at, min(scanner.wanted, size - scanner.at)))
    except BadTar as error:
        return _no_index(error)
    except _Void as void:
        return NoIndex(str(void))
    return builder.result()


def index_bytes(content: bytes) -> Index:
    return index(lambda offset, length: content[offset : offset + length], len(content))


async def index_stream(chunks: AsyncIterable[bytes | memoryview], size: int | None) -> Index:
    """The same over a stream from the first byte on, which is read only as far as needed."""
    builder = _Builder(size)
    scanner = builder.scanner
    begin, held = 0, bytearray()  # `held` are the archive's bytes from `begin` on
    try:
        async for chunk in chunks:
            held += chunk
            while begin + len(held) >= scanner.at + scanner.wanted:
                skip = scanner.at - begin
                wanted = bytes(memoryview(held)[skip : skip + scanner.wanted])
                builder.feed(wanted)
            useless = min(scanner.at - begin, len(held))
            del held[:useless]
            begin += useless
        if begin + len(held) < scanner.at:
            return NOT_A_TAR
        while not scanner.is_done:
            builder.feed(bytes(held[scanner.at - begin :]))
    except BadTar as error:
        return _no_index(error)
    except _Void as void:
        return NoIndex(str(void))
    return builder.result()


def _no_index(error: BadTar) -> NoIndex:
    return NoIndex(f"{NOT_A_TAR.reason}: {error.message}")


def find(members: tuple[Member, ...], name: str) -> Member | None:
    """The member of that name. Of several the last one counts, as in `tar x`.

    `./name` is what `tar c .` writes; with and without the dot it is one file, where the archive has no other.
    """
    for wanted in (name, f"./{name}", name.removeprefix("./")):
        member = next((member for member in reversed(members) if member.name == wanted), None)
        if member is not None:
            return member
    return None


def memory_of(found: Index) -> int:
    """About how many bytes of memory an index takes."""
    if isinstance(found, NoIndex):
        return len(found.reason)
    return sum(MEMBER_MEMORY + len(member.name) for member in found)


def pack(found: Index) -> bytes:
    """An index in its entry on disk, at most `MAX_INDEX_BYTES`."""
    if isinstance(found, NoIndex):
        return bytes(msgpack.packb(found.reason.encode("utf-8", "replace")))
    return bytes(msgpack.packb([_raw(member) for member in found]))


def unpack(data: bytes) -> Index:
    if not data:  # as older gateways wrote it
        return NOT_A_TAR
    found = msgpack.unpackb(data)
    if isinstance(found, bytes):
        return NoIndex(found.decode())
    return tuple(Member(name.decode("utf-8", "surrogateescape"), at, size) for name, at, size in found)


def _raw(member: Member) -> tuple[bytes, int, int]:
    return member.name.encode("utf-8", "surrogateescape"), member.offset, member.size
