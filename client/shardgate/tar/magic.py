"""Which compression an object has, by its first bytes, whatever its name is."""

from __future__ import annotations

GZIP, BZIP2, XZ, ZSTD = "gzip", "bzip2", "xz", "zstd"
READABLE = frozenset((GZIP, BZIP2, XZ, ZSTD))
"""What workers can decompress."""
ENOUGH = 10
"""Bytes by which every one is known."""

_BEGINNINGS = (
    (b"\x1f\x8b\x08", GZIP),
    (b"\xfd7zXZ\0", XZ),
    (b"\x5d\0\0\x80", XZ),  # its predecessor, .lzma
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"\x1f\x9d", "compress"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP\1", "lzip"),
    (b"PK\3\4", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
)
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
"""How a block, and the end of an empty file, begin behind `BZh` and a digit."""

_SKIPPABLE = b"\x2a\x4d\x18"
"""How a zstd frame without data begins behind a byte from 0x50 to 0x5f; files of pzstd begin so."""


def compression_of(data: bytes) -> str:
    """The name of the compression, "" where the bytes are none."""
    for beginning, name in _BEGINNINGS:
        if data.startswith(beginning):
            return name
    if data[:3] == b"BZh" and data[3:4].isdigit() and data[4:ENOUGH] in _BZIP2_BLOCKS:
        return BZIP2
    if data[1:4] == _SKIPPABLE and data[0] >> 4 == ord("P") >> 4:
        return ZSTD
    return ""
