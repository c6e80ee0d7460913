"""What becomes of a worker whose reader pauses: it is given up, and not inside of a sample.

A reader that pauses keeps its worker from others, or, when one thread reads two shards in turn, from itself for ever.
So after some seconds on one chunk the worker is given up, and another one goes on when the reader does. Where that
would cut a sample in two, the sample would have to be made again and compared. So its end is received into memory
first, as far as the budget of this process allows; beyond that the sample is cut, and compared.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from shardgate_gateway.errors import WorkerLost
from shardgate_gateway.etl.runner import Chunk

if TYPE_CHECKING:
    from shardgate import wire
    from shardgate_gateway.etl.runner import WorkerConnection

BUDGET_BYTES = 256 << 20
"""Ends of samples in memory, per process."""
STREAM_BYTES = 64 << 20
"""Of one stream: what has not ended by then is a large sample, or a worker at whose samples no other may begin."""


class Budget:
    """Bytes that all paused streams of a process may hold."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self._left = limit

    def take(self, count: int) -> bool:
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        self._left += count


class PatientReceiver:
    """Receives from a worker for one reader, and gives the worker up when the reader pauses.

    Attributes:
        is_given_up: The reader paused; what was received until then is still to come, and nothing after it.

    Args:
        connection: To the worker; closing it stays with the caller.
        budget: For ends of samples.
        patience: Seconds on one chunk after which the reader pauses.
        anchored: The stream has no checkpoints: the worker is given up at once.
    """

    def __init__(self, connection: WorkerConnection, budget: Budget, patience: float, *, anchored: bool) -> None:
        self._connection = connection
        self._budget = budget
        self._patience = patience
        self._anchored = anchored
        self._timer: asyncio.TimerHandle | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._collected: deque[Chunk | wire.End | wire.Failure | WorkerLost] = deque()
        self._held = 0
        self._last: Chunk | None = None
        self.is_given_up = False

    async def receive(self) -> Chunk | wire.End | wire.Failure | None:
        """As `WorkerConnection.receive`; None when the worker was given up and nothing of it is left."""
        if self._last is not None:
            await self._connection.consumed(len(self._last.data))
            self._last = None
        if not self.is_given_up:
            received = await self._connection.receive()
            if isinstance(received, Chunk):
                self._last = received
            return received
        if self._collecting is not None:
            await self._collecting
        if not self._collected:
            return None
        item = self._collected.popleft()
        if isinstance(item, WorkerLost):
            raise item
        return item

    def delivering(self) -> None:
        """The last chunk is on its way to the reader from now on."""
        if not self.is_given_up:
            self._timer = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def delivered(self) -> None:
        """The reader took it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        self.delivered()
        try:
            if self._collecting is not None:
                self._collecting.cancel()
                await asyncio.gather(self._collecting, return_exceptions=True)
        finally:
            self._budget.give_back(self._held)
            self._held = 0

    def _give_up(self) -> None:
        self.is_given_up = True
        last, self._last = self._last, None
        if last is None or last.checkpoint.whole or self._anchored:
            self._connection.close()
            return
        try:
            self._connection.keep()
        except WorkerLost:  # its ring can't be mapped once more: the sample is cut, and compared
            self._connection.close()
            return
        self._collecting = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        """Receive the rest of the sample."""
        try:
            while True:
                received = await self._connection.receive()
                if not isinstance(received, Chunk):
                    self._collected.append(received)
                    return
                count = len(received.data)
                if self._held + count > STREAM_BYTES or not self._budget.take(count):
                    return
                self._held += count
                self._collected.append(Chunk(memoryview(bytes(received.data)), received.checkpoint))
                await self._connection.consumed(count)
                if received.checkpoint.whole:
                    return
        except WorkerLost as error:
            self._collected.append(error)
        finally:
            self._connection.close()
