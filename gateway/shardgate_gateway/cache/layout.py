"""Where the cache keeps its files, and file descriptors that close themselves."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

BODY_OFFSET = 4096
"""Where the body begins, in an entry and in the growing body of a fill alike: publishing moves no byte."""


class Identity(NamedTuple):
    """Says whether a path still is the file that was looked at.

    `mtime_ns` is set by the publisher from the nanosecond clock and never touched again, so that two files
    differ in it even when the file system gives out the same inode number twice.
    """

    inode: int
    mtime_ns: int
    size: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        return cls(stat.st_ino, stat.st_mtime_ns, stat.st_size)


class OpenFile:
    """A file descriptor that lives as long as somebody refers to it, so that unlinking never disturbs a reader."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    @classmethod
    def reading(cls, path: str) -> OpenFile:
        """Open read-only. Reads must not touch the access time: it is our own record of recency."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME))
        except PermissionError:  # only the owner may ask for O_NOATIME
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def writing(cls, path: str) -> OpenFile:
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    @classmethod
    def creating(cls, path: str) -> OpenFile:
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600))


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths are strings: one is formed and looked at for every GET."""

    root: str

    @classmethod
    def at(cls, folder: Path) -> Layout:
        return cls(str(folder.expanduser().absolute()))

    @property
    def entries(self) -> str:
        return f"{self.root}/entries"

    @property
    def fills(self) -> str:
        return f"{self.root}/fills"

    @property
    def space(self) -> str:
        return f"{self.root}/space"

    def entry(self, name: str) -> str:
        return f"{self.root}/entries/{name[:2]}/{name}"

    def entries_of(self, group: str) -> list[str]:
        """Names of all entries, and of fills under way, that begin with this, which has at least two characters."""
        names: set[str] = set()
        for folder in (f"{self.entries}/{group[:2]}", self.fills):
            with contextlib.suppress(FileNotFoundError):
                names.update(path.name.partition(".")[0] for path in Path(folder).glob(f"{group}*"))
        return sorted(names)

    def control(self, name: str) -> str:
        return f"{self.root}/fills/{name}"

    def body(self, file_name: str) -> str:
        return f"{self.root}/fills/{file_name}"

    def create(self) -> None:
        for folder in (self.entries, self.fills):
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def bodies(self, name: str) -> list[str]:
        """Paths of all bodies that are filling for this entry."""
        with os.scandir(self.fills) as found:
            return [item.path for item in found if item.name.startswith(f"{name}.")]


def unlink(path: str) -> bool:
    """Remove a file; says whether this call did it."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True


def exists(path: str) -> bool:
    return Path(path).exists()


def read_fully(fd: int, offset: int, length: int) -> bytes:
    """Exactly these bytes, or fewer at the end of the file."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def write_fully(fd: int, buffers: list[bytes | memoryview], offset: int) -> None:
    """Write all of it; the kernel may take less than it is given, and at most 1024 buffers at a time."""
    left = list(buffers)
    while left:
        written = os.pwritev(fd, left[:1024], offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = memoryview(left[0])[written:]
