"""One header block: its checksum, its name, its size and its type.

A block counts as a header only if every number in it can be read, as `tarfile` has it: a block with nonsense for a
mode or a time is data, or damage. Where `tarfile` guesses (signs, underscores, a prefix in a format that has none), the
block is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from zlib import adler32

from shardgate.tar.errors import BadTar

BLOCK = 512
SPACES = 8 * ord(" ")
"""What the checksum's own field counts."""
BASE_256, NEGATIVE = 0o200, 0o377
"""First byte of a number that is not written in octal digits."""
TERMINATORS = frozenset(b" \0")
OWNER, TIME, DEVICE = slice(100, 124), slice(136, 148), slice(329, 345)
"""Mode, owner and group; time; device numbers. Not needed, but a header where they are nonsense is none."""
_USUAL_NUMBERS = re.compile(rb"(?:[0-7]{7}[ \0]){3}([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})[ \0]{2}")
"""Mode, owner, group, size, time and checksum as most archivers write them."""
_USUAL_DEVICES = frozenset((bytes(16), b"0000000\0" * 2, b"0000000 " * 2))
USTAR = b"ustar\0"
GNU_TYPES = frozenset(b"LKS")
"""Types in whose headers GNU tar uses the bytes of the prefix for other purposes."""


def parse_header(block: bytes, at: int) -> tuple[str, int, int]:
    """Name, size and type byte of a header of 512 bytes that lies at byte `at`.

    Raises:
        BadTar: It is no header.
    """
    numbers = _USUAL_NUMBERS.match(block, 100)
    if numbers is not None and block[DEVICE] in _USUAL_DEVICES:
        size, stated = int(numbers[1], 8), int(numbers[2], 8)
    else:
        size, stated = _unusual_numbers(block, at)
    if block.isascii():
        # adler32's low half is 1 plus the sum modulo 65521, which so few bytes below 128 can't reach: exact, and in C.
        total = (adler32(block) & 0xFFFF) - (adler32(block[148:156]) & 0xFFFF) + SPACES
    else:
        total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 1
        total += SPACES - (adler32(block[148:156]) & 0xFFFF)
    if total != stated and _signed_sum(block) != stated:
        raise BadTar(f"the header at byte {at} has a wrong checksum")
    end = block.find(0, 0, 100)
    name = block[:end] if end >= 0 else block[:100]
    text = name.decode() if name.isascii() else name.decode("utf-8", "surrogateescape")
    kind = block[156]
    if block[345] and kind not in GNU_TYPES:
        if block[257:263] != USTAR:
            raise BadTar(f"the header at byte {at} has a prefix, and its format has none")
        text = f"{text_of(block[345:500])}/{text}"
    return text, size, kind


def _unusual_numbers(block: bytes, at: int) -> tuple[int, int]:
    """Size and checksum of a header whose numbers are not all written as GNU tar writes them."""
    stated = _octal(block[148:156], "checksum", at)
    if not (_are_numbers(block[OWNER], 8) and _are_numbers(block[DEVICE], 8)):
        raise BadTar(f"the header at byte {at} has an impossible mode, owner or device")
    if not _are_numbers(block[TIME], 12):
        raise BadTar(f"the header at byte {at} has an impossible time")
    return _octal(block[124:136], "size", at), stated


def text_of(field: bytes) -> str:
    """The text before the first NUL."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _octal(field: bytes, what: str, at: int) -> int:
    """A number in octal, or in base 256 if its first byte says so."""
    number = _number(field)
    if number is None:
        raise BadTar(f"the header at byte {at} has an impossible {what}: {field!r}")
    return number


def _number(field: bytes) -> int | None:
    """The number in a field, None where there is none or a negative one."""
    digits = field[:-1]
    if not (digits.isdigit() and field[-1] in TERMINATORS):
        if field[0] == BASE_256:
            return int.from_bytes(field[1:], "big")
        digits = field.partition(b"\0")[0].strip(b" ")
        if not digits:
            return 0
        if not digits.isdigit():
            return None
    try:
        return int(digits, 8)
    except ValueError:  # an 8 or a 9
        return None


@lru_cache(1024)
def _are_numbers(fields: bytes, width: int) -> bool:
    """Whether each field holds a number; a negative one is odd, and no reason to give up."""
    parts = [fields[at : at + width] for at in range(0, len(fields), width)]
    return all(part[0] == NEGATIVE or _number(part) is not None for part in parts)


def _signed_sum(block: bytes) -> int:
    """The checksum as some old archivers made it, of signed bytes."""
    signed = memoryview(block).cast("b")
    return sum(signed[:148]) + SPACES + sum(signed[156:])
