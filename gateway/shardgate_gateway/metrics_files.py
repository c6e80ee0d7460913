"""Files of Prometheus metrics whose bytes are on the disk before they are mapped into memory.

prometheus-client maps a sparse file. Where the disk is full, the first touch of a page without a block kills the
process (SIGBUS), and its replacement, too. So the blocks are allocated first. Where that fails, the process counts on
in memory of its own: its numbers are missing in the metrics until it is replaced, and its readers notice nothing.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import mmap_dict

FIRST_BYTES = mmap_dict._INITIAL_MMAP_SIZE  # noqa: SLF001
ENTRY_BYTES = 64
"""More than a value takes beside its key: a length, padding, two numbers."""


class AllocatedDict(mmap_dict.MmapedDict):
    """prometheus-client's dictionary in a file; stands on `_f`, `_m`, `_used` and `_capacity` of it."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        memory = -1 if read_mode or _allocate(filename) else os.memfd_create("metrics", os.MFD_CLOEXEC)
        try:
            super().__init__(filename if memory < 0 else f"/proc/self/fd/{memory}", read_mode)  # type: ignore[no-untyped-call]
        finally:
            if memory >= 0:
                os.close(memory)

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + ENTRY_BYTES > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        capacity, file = 2 * self._capacity, self._f
        try:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        except OSError:
            file = os.fdopen(os.memfd_create("metrics", os.MFD_CLOEXEC), "a+b")
            file.truncate(capacity)
        grown = mmap.mmap(file.fileno(), capacity)
        if file is not self._f:
            grown[: self._used] = self._m[: self._used]
            self._f.close()
        self._f, self._m, self._capacity = file, grown, capacity


def _allocate(filename: str) -> bool:
    """Make the file, or fill its holes; False where the disk has no room. A file without a value is not left behind."""
    try:
        file = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    size = os.fstat(file).st_size
    try:
        os.posix_fallocate(file, 0, max(FIRST_BYTES, size))
    except OSError:
        if not size:  # whoever answers a scrape could not read it
            with suppress(OSError):
                Path(filename).unlink()
        return False
    finally:
        os.close(file)
    return True
