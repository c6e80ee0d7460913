"""A stretch of a body on its way from the network into the file.

Writing and hashing happen in a thread, in steps big enough to pay for the way there, while the next bytes arrive. Two
exceptions keep readers from waiting: the first bytes are written at once (unless nobody gets them before the whole
body is there), and what has lingered for a few milliseconds is written however little it is. Memory stays bounded
because whoever feeds waits for room.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from shardgate_gateway.cache.layout import BODY_OFFSET, OpenFile, write_fully

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from shardgate_gateway.cache.blocks import BlockSums

STEP = 1 << 20
"""Bytes worth a trip to the writer thread."""
HELD = 4 << 20
"""Bytes that may wait for the writer."""
LINGER = 0.005
"""Seconds that fewer than STEP bytes may wait."""


class Piece:
    """Bytes `[start, end)`; `end` is None where the body's length is unknown."""

    def __init__(self, start: int, end: int | None, sums: BlockSums) -> None:
        self.start = start
        self.end = end
        self.sums = sums
        self.written = start
        """Everything before it is in the file."""
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Future[int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    def begin(
        self,
        file: OpenFile,
        pool: Executor,
        prepare: Callable[[int], None],
        wrote: Callable[[], None],
        *,
        hurry: bool = True,
    ) -> None:
        """Say where to write.

        Args:
            file: The growing body.
            pool: Where blocking calls run.
            prepare: Called in the thread with the end of the bytes about to be written; raises OSError to refuse.
            wrote: Called on the loop when `written` has moved.
            hurry: Readers wait for the first bytes. Else nothing is written before there is a step of it.
        """
        self._hurry = hurry
        self._file, self._pool, self._prepare, self._wrote = file, pool, prepare, wrote
        self._loop = asyncio.get_running_loop()

    @property
    def full(self) -> bool:
        return self._waiting_bytes >= HELD

    def feed(self, chunk: bytes | memoryview) -> None:
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._writing is None and (self._hurry or self._waiting_bytes >= STEP):
            self._write_soon(first=self.written == self.start)

    async def room(self) -> None:
        while self.full:
            await self._settle()

    async def flush(self) -> None:
        """Until all that was fed is in the file. Raises OSError."""
        while self._waiting or self._writing:
            self._write_now()
            await self._settle()
        self._check()

    async def take(self) -> list[bytes | memoryview]:
        """What is not in the file yet, for `write`. Raises OSError."""
        while self._writing is not None:
            await self._settle()
        self._check()
        self._stop_timer()
        buffers, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return buffers

    def write(self, buffers: list[bytes | memoryview]) -> None:
        """Write what was taken, in the thread of who calls. Raises OSError."""
        self.written = self._write(buffers, self.written)

    async def close(self) -> None:
        """Drop what is not in the file, and return when no thread writes any more."""
        self._stop_timer()
        self._waiting, self._waiting_bytes = [], 0
        while self._writing is not None and not self._writing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._writing])
        if self._writing is not None:
            self._done(self._writing)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _settle(self) -> None:
        self._check()
        if self._writing is not None:
            await asyncio.wait([self._writing])
            await asyncio.sleep(0)  # let `_done` run
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _write_soon(self, *, first: bool = False) -> None:
        if first or self._waiting_bytes >= STEP:
            self._write_now()
        elif self._timer is None and self._waiting:
            self._timer = self._loop.call_later(LINGER, self._write_now)

    def _write_now(self) -> None:
        self._stop_timer()
        if self._writing is None and self._error is None and self._waiting:
            buffers, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._writing = self._loop.run_in_executor(self._pool, self._write, buffers, self.written)
            self._writing.add_done_callback(self._done)

    def _write(self, buffers: list[bytes | memoryview], offset: int) -> int:
        """In the thread."""
        end = offset + sum(map(len, buffers))
        self._prepare(end)
        write_fully(self._file.fd, buffers, BODY_OFFSET + offset)
        for data in buffers:
            self.sums.update(data)
        return end

    def _done(self, writing: asyncio.Future[int]) -> None:
        if self._writing is not writing:  # `close` was quicker
            return
        self._writing = None
        if writing.cancelled():
            return
        try:
            self.written = writing.result()
            self._wrote()
        except Exception as error:  # noqa: BLE001 (kept for whoever feeds)
            self._error = error
        else:
            self._write_soon()
