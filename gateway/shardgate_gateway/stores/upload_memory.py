"""Memory that running uploads of this process may take, all together.

A multipart upload gathers parts of 8 MiB, several at a time, and a small object is gathered whole, since it is stored
by one request. Each alone is modest; a thousand senders at once would be the end of the process. So an upload asks for
the memory that it may need before it reads the first byte. One that gets none waits, in order of arrival, while its
sender is slowed down by TCP; after a while it is Busy. An upload that needs more than there is gets all of it, alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shardgate_gateway.errors import Busy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RETRY_SECONDS = 5.0


class UploadMemory:
    """Bytes, shared out in order of arrival.

    Args:
        limit: How many there are.
        patience: Seconds to wait for some.
    """

    def __init__(self, limit: int, patience: float) -> None:
        self.limit = limit
        self._free = limit
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Have `size` bytes for the length of a block.

        Raises:
            Busy: Others had them for too long.
        """
        size = min(size, self.limit)
        await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await asyncio.wait([turn], timeout=self._patience)
        except asyncio.CancelledError:
            self._leave(size, turn)
            raise
        if not turn.done():
            self._leave(size, turn)
            raise Busy(
                f"uploads hold all {self.limit} bytes that they may gather",
                hint="try again, upload less at once, or raise serve.upload_memory_bytes",
                retry_after=RETRY_SECONDS,
            )

    def _leave(self, size: int, turn: asyncio.Future[None]) -> None:
        if turn.done():
            self._give(size)
        else:
            self._waiting.remove((size, turn))
            self._give(0)  # who stood behind may fit

    def _give(self, size: int) -> None:
        self._free += size
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            self._free -= wanted
            turn.set_result(None)
