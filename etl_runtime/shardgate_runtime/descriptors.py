"""Descriptors that user code may have closed: `os.closerange(3, 1024)` is an old habit of programs that start others.

A worker without its connection can tell nobody what became of it. So it looks, while it still knows which sample ran.
"""

from __future__ import annotations

import os


class Descriptors:
    """Descriptors as they are now, whose numbers may be given to other files when they were closed."""

    def __init__(self, *numbers: int) -> None:
        self._known = [(number, _file_of(number)) for number in numbers]

    def are_intact(self) -> bool:
        return all(_file_of(number) == file for number, file in self._known)


def _file_of(number: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
