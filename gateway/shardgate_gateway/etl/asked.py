"""Which results were asked for before, remembered cheaply by all processes of a node.

A hash table in a shared file of fixed size, mapped into memory: one slot per hash, eight bytes of another part of the
hash in it. A newer result may push an older one out of its slot; then the older one counts as not asked for yet, and is
computed once more before it is kept. Nothing is locked, flushed or repaired: wrong answers cost time, not bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SLOTS = 1 << 16
_SLOT = struct.Struct("=Q")


class Asked:
    """The table in `path`, made if it is not there."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, SLOTS * _SLOT.size)
            self._slots = mmap.mmap(descriptor, SLOTS * _SLOT.size)
        finally:
            os.close(descriptor)

    def add(self, name: str) -> bool:
        """Remember a name of at least 24 hex digits. True if it was there already."""
        place = int(name[:8], 16) % SLOTS * _SLOT.size
        mark = int(name[8:24], 16)
        if _SLOT.unpack_from(self._slots, place)[0] == mark:
            return True
        _SLOT.pack_into(self._slots, place, mark)
        return False

    def close(self) -> None:
        self._slots.close()
