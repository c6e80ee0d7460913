"""A runtime's log: a file that the runtime and its workers append to, and that is cut in the middle of its life.

They write to it directly, without the gateway in between. Since they append, the file can be cut under them: its last
part is put aside and the file emptied; they go on at its new end.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

MAX_BYTES = 16 << 20
KEPT_BYTES = 4 << 20
"""Of a file that is cut, put aside as `<name>.1`."""

LOOK_SECONDS = 0.2
"""Between looks at a log that somebody follows."""


class LogFile:
    """One transform's log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._older = path.with_name(path.name + ".1")

    def open(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("ab")

    def cut(self) -> None:
        """Keep it below its limit."""
        if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
            part = self._older.with_name(self._older.name + ".part")
            part.write_bytes(_tail(self._path, KEPT_BYTES))
            part.replace(self._older)
            os.truncate(self._path, 0)

    def tail(self, lines: int) -> str:
        """The last `lines` lines."""
        text = _tail(self._path, KEPT_BYTES)
        if len(text) < KEPT_BYTES:
            text = _tail(self._older, KEPT_BYTES) + text
        return "".join(text.decode(errors="replace").splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    async def follow(self, lines: int) -> AsyncGenerator[bytes]:
        """The last `lines` lines, then what is written from now on; b"" now and then."""
        place = self._path.stat().st_size if self._path.exists() else 0
        yield (await asyncio.to_thread(self.tail, lines)).encode()
        while True:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size < place:  # it was cut; what was written since is all new
                place = 0
            if size > place:
                yield _tail(self._path, size - place)
                place = size
            else:
                await asyncio.sleep(LOOK_SECONDS)
                yield b""

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._older.unlink(missing_ok=True)


def _tail(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - count))
            return file.read(count)
    except FileNotFoundError:
        return b""
