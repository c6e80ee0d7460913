"""Checksums of a body by blocks, so that any part of it can be verified before it is sent."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import xxhash

from shardgate_gateway.cache.layout import read_fully

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 20
"""Bytes per checksum: small enough that a range verifies little more than it sends."""


def block_count(size: int) -> int:
    return -(-size // BLOCK)


class BlockSums:
    """Checksums of consecutive bytes that begin at a block; fed in any portions."""

    def __init__(self, start: int = 0) -> None:
        self.position = start
        self._first = start // BLOCK
        self._sums = array("Q")
        self._open = xxhash.xxh3_64()

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            room = BLOCK - self.position % BLOCK
            piece = view[:room]
            self._open.update(piece)
            self.position += len(piece)
            view = view[room:]
            if self.position % BLOCK == 0:
                self._close()

    def _close(self) -> None:
        self._sums.append(self._open.intdigest())
        self._open.reset()

    def finish(self) -> Iterator[tuple[int, int]]:
        """End the last block; yields (block number, checksum)."""
        if self.position % BLOCK:
            self._close()
        return enumerate(self._sums, self._first)


def digest_of(fd: int, offset: int, length: int) -> xxhash.xxh3_128:
    """Over bytes of a file. Blocks; raises OSError."""
    digest = xxhash.xxh3_128()
    for at in range(0, length, BLOCK):
        digest.update(read_fully(fd, offset + at, min(BLOCK, length - at)))
    return digest


def sums_of(content: bytes) -> array[int]:
    view = memoryview(content)
    return array("Q", (xxhash.xxh3_64_intdigest(view[at : at + BLOCK]) for at in range(0, len(content), BLOCK)))
