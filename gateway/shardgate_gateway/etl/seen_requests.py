"""Which results were asked for before, remembered cheaply by all processes of a node.

A hash table in a shared file of fixed size: one slot per hash, eight bytes of another part of the hash in it. A newer
result may push an older one out of its slot; then the older one counts as not asked for yet, and is computed once more
before it is kept. Nothing is locked, flushed or repaired: wrong answers cost time, not bytes. It is read and written by
system calls, since a full disk turns the touch of a memory map into SIGBUS; here it means that nothing is remembered.
"""

from __future__ import annotations

import logging
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SLOTS = 1 << 16
_SLOT = struct.Struct("=Q")

log = logging.getLogger(__name__)


class SeenRequests:
    """The table in `path`, made if it is not there; in memory of this process where it can't be made."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = _open(path)
        except OSError as error:
            log.warning("what is asked for is remembered by each process alone: %s", error)
            self._file = os.memfd_create("asked", os.MFD_CLOEXEC)

    def add(self, name: str) -> bool:
        """Remember a name by its last 24 hex digits. True if it was there already.

        The names of all results of one object begin alike (`group_name`).
        """
        place = int(name[-8:], 16) % SLOTS * _SLOT.size
        mark = _SLOT.pack(int(name[-24:-8], 16))
        try:
            if os.pread(self._file, _SLOT.size, place) == mark:
                return True
            os.pwrite(self._file, mark, place)
        except OSError:  # the disk is full or failing: nothing could be kept there, either
            pass
        return False

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(file, SLOTS * _SLOT.size)
    except OSError:
        os.close(file)
        raise
    return file
