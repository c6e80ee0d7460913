"""A runtime's log: a file of bounded size that `log_writer.py` writes, and that any gateway process reads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.etl.local import log_writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

MAX_BYTES = 16 << 20
KEPT_BYTES = 4 << 20
"""Of a file that is full, put aside as `<name>.1`."""

LOOK_SECONDS = 0.2
"""Between looks at a log that somebody follows."""


class LogFile:
    """One transform's log."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._older = self._path.with_name(path.name + ".1")

    def start_writer(self, source: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the program that writes what comes through the pipe `source`, until its last writer has ended.

        It gets a process group of its own, for what ends the others shall not end it. But it stays in our session:
        only what user code started is in another one.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        words = [str(Path(log_writer.__file__)), str(self._path), str(MAX_BYTES), str(KEPT_BYTES)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *words],
            stdin=source,
            stdout=subprocess.DEVNULL,
            env=environment,
            process_group=0,
        )

    def tail(self, lines: int) -> str:
        """The last `lines` lines."""
        return self._before(_size(self._path), lines)

    async def follow(self, lines: int) -> AsyncGenerator[bytes]:
        """The last `lines` lines, then what is written from now on; b"" now and then."""
        place = _size(self._path)
        yield (await asyncio.to_thread(self._before, place, lines)).encode()
        while True:
            size = _size(self._path)
            if size < place:  # it was cut; what was written since is all new
                place = 0
            data = await asyncio.to_thread(_read, self._path, place, size)
            place += len(data)
            if not data:
                await asyncio.sleep(LOOK_SECONDS)
            yield data

    def _before(self, end: int, lines: int) -> str:
        """The last `lines` lines that end before this byte."""
        text = _read(self._path, max(0, end - KEPT_BYTES), end)
        if len(text) < KEPT_BYTES:
            text = _read(self._older, max(0, _size(self._older) - KEPT_BYTES), MAX_BYTES) + text
        return "".join(text.decode(errors="replace").splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._older.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, start: int, end: int) -> bytes:
    """Bytes `[start, end)`, as far as they are there."""
    if start >= end:
        return b""
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), end - start, start)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LocalStorageError(
            f"the log {path.name} can't be read: {error.strerror}", hint="see the disk of state.dir"
        ) from error
