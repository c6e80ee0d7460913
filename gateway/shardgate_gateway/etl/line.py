"""Who waits for a worker, and since when: the longest waiting first.

A request waits for `etl.queue_seconds` at most, since readers give up a connection that is silent for some minutes.
It is then answered 503 with a note of when it first came, sealed so that nobody can write one. Whoever brings the note
back stands where they stood, before all that came later (`since`, in the context of the request). So nobody has to wait
anew, and nobody is served out of turn by asking more often.

The worker of a pipeline brings such a note, too, when it asks for its input: it stands where the reader does. And it is
held meanwhile, so it also goes before those that came later and would wait for another worker in turn (`Turns`):
they would only hold one more.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import operator
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


WORDS = 4
"""Of the note that a worker brings; that of a reader has less."""


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place in all lines: what a note says.

    Attributes:
        since: When the reader first asked (Unix time).
        refusals: How often an earlier stage of its pipeline had no worker free.
        seconds: How long it may wait, where workers of later stages are held meanwhile; None elsewhere.
        held: The least id of their transforms.
    """

    since: float
    refusals: int = 0
    seconds: float | None = None
    held: str = ""

    @property
    def is_awaited(self) -> bool:
        """A worker is held until this request has one."""
        return self.seconds is not None

    def written(self) -> str:
        since = f"{self.since:.3f}"
        if self.seconds is not None:
            return f"{since} {self.refusals} {self.seconds:.3f} {self.held}"
        return f"{since} {self.refusals}" if self.refusals else since

    @classmethod
    def read(cls, text: str) -> Place:
        """What `written` wrote."""
        words = text.split()
        if len(words) < WORDS:
            return cls(float(words[0]), int(words[1]) if words[1:] else 0)
        since, refusals, seconds, held = words[:WORDS]
        return cls(float(since), int(refusals), float(seconds), held)


PLACE: ContextVar[Place | None] = ContextVar("place", default=None)
"""Of the request that is being answered, where it is known."""


def own_place() -> Place:
    """Of the request that is being answered; that of one that comes now, where nothing else is known."""
    return PLACE.get() or Place(time.time())


class Turn(NamedTuple):
    """Somebody in a line.

    Attributes:
        since: Of the place.
        number: As they come.
        is_awaited: A worker of another transform is held meanwhile.
        wants_more: With the worker that it gets, it will wait for one of another transform.
    """

    since: float
    number: int
    is_awaited: bool
    wants_more: bool

    @classmethod
    def of_request(cls, number: int, *, wants_more: bool) -> Turn:
        """Of the request that is being answered."""
        place = own_place()
        return cls(place.since, number, place.is_awaited, wants_more)


class Turns:
    """Those who wait, sorted, so that with a thousand of them each comes, leaves and is found in a few comparisons."""

    def __init__(self) -> None:
        self._all: list[Turn] = []
        self._awaited: list[Turn] = []  # as they came

    def add(self, turn: Turn) -> None:
        bisect.insort(self._all, turn)
        if turn.is_awaited:
            bisect.insort(self._awaited, turn, key=_number)

    def discard(self, turn: Turn) -> None:
        """Take it out, if it is there."""
        at = bisect.bisect_left(self._all, turn)
        if self._all[at : at + 1] == [turn]:
            del self._all[at]
            if turn.is_awaited:
                del self._awaited[bisect.bisect_left(self._awaited, turn.number, key=_number)]

    def next(self) -> Turn | None:
        """Who waits for longest; but who wants more lets those pass who are awaited, and were there before."""
        if not self._all:
            return None
        turn = self._all[0]
        if turn.wants_more and self._awaited and self._awaited[0].number < turn.number:
            return self._awaited[0]
        return turn


_number = operator.attrgetter("number")


class WaitingLine:
    """Requests in front of a queue that serves in order of arrival, of which only a few may be in there."""

    def __init__(self) -> None:
        self._inside = self._places = 0
        self._numbers = itertools.count()
        self._turns = Turns()
        self._waiting: dict[Turn, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def turn(self, places: int, *, wants_more: bool = False) -> AsyncIterator[None]:
        """Wait until it is this request's turn to be in there, as one of `places`: as many as the last one says."""
        self._places = places
        await self._called(Turn.of_request(next(self._numbers), wants_more=wants_more))
        try:
            yield
        finally:
            self._leave()

    async def _called(self, turn: Turn) -> None:
        call = self._waiting[turn] = asyncio.get_running_loop().create_future()
        self._turns.add(turn)
        self._call()
        try:
            await call
        except asyncio.CancelledError:
            if not call.cancelled():  # it was called, and left at the same moment
                self._leave()
            raise
        finally:
            del self._waiting[turn]
            self._turns.discard(turn)

    def _leave(self) -> None:
        self._inside -= 1
        self._call()

    def _call(self) -> None:
        """Let in who waits for longest, while there are places."""
        while self._inside < self._places and (turn := self._turns.next()) is not None:
            self._turns.discard(turn)
            call = self._waiting[turn]
            if not call.done():
                call.set_result(None)
                self._inside += 1
