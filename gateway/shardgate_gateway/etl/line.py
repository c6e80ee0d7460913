"""Who waits for a worker, and since when: the longest waiting first.

A request waits for `etl.queue_seconds` at most, since readers give up a connection that is silent for some minutes.
It is then answered 503 with a note of when it first came, sealed so that nobody can write one. Whoever brings the note
back stands where they stood, before all that came later (`since`, in the context of the request). So nobody has to wait
anew, and nobody is served out of turn by asking more often.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SINCE: ContextVar[float | None] = ContextVar("since", default=None)
"""When the request that is being answered first came (Unix time), where it is known."""


def waiting_since() -> float:
    """When the request that is being answered first came; now, where nothing else is known."""
    since = SINCE.get()
    return time.time() if since is None else since


class WaitingLine:
    """Requests in front of a queue that serves in order of arrival, of which only a few may be in there."""

    def __init__(self) -> None:
        self._inside = 0
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, places: int) -> AsyncIterator[None]:
        """Wait until it is this request's turn to be in there, as one of `places`."""
        if self._inside < places:
            self._inside += 1
        else:
            await self._called()
        try:
            yield
        finally:
            self._call_next()

    async def _called(self) -> None:
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (waiting_since(), next(self._numbers), call))
        try:
            await call
        except asyncio.CancelledError:
            if not call.cancelled():  # it was called, and left at the same moment
                self._call_next()
            raise

    def _call_next(self) -> None:
        """Hand the place to who waits for longest, if anybody does."""
        while self._waiting:
            _, _, call = heapq.heappop(self._waiting)
            if not call.done():
                call.set_result(None)
                return
        self._inside -= 1
