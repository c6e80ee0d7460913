"""The keys of the samples that a shard had so far, in little memory."""

from __future__ import annotations

import os
from array import array

MAX_KEYS = 1 << 20
"""Keys of one shard that are remembered, in at most 32 MiB; a later key is compared with these."""
FIRST_SLOTS = 1 << 10
DIGEST = (1 << 64) - 1


class RememberedKeys:
    """A hash table of 8-byte digests and of the places where they were met.

    The digests depend on a random number, so a hostile shard can't choose keys that fall together; two keys of a shard
    of a million have the same one with a probability of one in ten million.
    """

    def __init__(self) -> None:
        self._salt = os.urandom(16)
        self._make_slots(FIRST_SLOTS)

    def add(self, key: str, place: int) -> int | None:
        """Remember a key that was met at `place`. Returns where it was met before, None for a new one."""
        digest = hash((self._salt, key)) & DIGEST or 1
        digests = self._digests
        slot = digest & self._mask
        if digests[slot]:
            slot = self._slot_of(digest)
            if digests[slot]:
                return self._places[slot]
        if self._free:
            digests[slot] = digest
            self._places[slot] = place
            self._free -= 1
            if not self._free and len(digests) < 2 * MAX_KEYS:
                self._grow()
        return None

    def _slot_of(self, digest: int) -> int:
        """The slot with this digest, or the free one where it belongs."""
        digests, mask = self._digests, self._mask
        slot = digest & mask
        while digests[slot] and digests[slot] != digest:
            slot = (slot + 1) & mask
        return slot

    def _make_slots(self, count: int) -> None:
        self._mask = count - 1
        self._free = count // 2
        self._digests = array("Q", bytes(8 * count))
        self._places = array("Q", bytes(8 * count))

    def _grow(self) -> None:
        digests, places = self._digests, self._places
        self._make_slots(2 * len(digests))
        for digest, place in zip(digests, places, strict=True):
            if digest:
                slot = self._slot_of(digest)
                self._digests[slot] = digest
                self._places[slot] = place
                self._free -= 1
