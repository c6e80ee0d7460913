"""How long a worker of a pipeline is held while the stage before it has none.

A pipeline's worker waits for a worker of the stage before, and nobody can tell whether that one will ever be free: the
workers may be spread over many gateways and processes, each with requests that hold what another one waits for. So

- **no wait that holds a worker is without end.** It lasts `STAGE_SECONDS` at first; then the input is refused (503).
  For a transform whose id is less than those of all workers that are held it lasts `PATIENT` times as long: in each
  circle is one that waits in the other direction, and lets go first.
- **a refusal lets go of everything.** It goes through all stages to the request of the reader, who holds nothing then,
  and begins anew a random moment later. So what the others wait for is free.
- **a reader keeps one place in all lines** (`line.py`): the oldest is in front wherever it waits. But nobody who would
  wait for yet another worker passes one for whom a worker is held: else some that take turns in vain could go on so
  for ever, and keep the one from what it needs.
- **each refusal makes the time longer** by a quarter. Who was refused often outlasts all others, who then let go first.

So no circle of waits lasts, in whatever order pipelines name their stages, and however many stages they have; and the
oldest request gets through: those in its way finish or let go, new ones stand behind it, and its patience grows until
it is enough. One that was refused while it had sent something already loses more, so it waits `BEGUN_SECONDS` at least.

**In turn.** Requests of the same stages that were refused would refuse each other again, and new ones would refuse
them. So while any of them was refused, no more of them try at a time in each process than the rarest stage has workers,
the oldest first, each until it has something; the others hold nothing meanwhile. Where earlier stages turn out to be
kept, nobody is refused any more: with every few that got through, one more may try.

**Silence.** All refusals together take `etl.queue_seconds` at most while the reader has nothing yet. Then it is
answered 503 with a note of its place and its refusals, and goes on from there when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field, replace

from shardgate_gateway.errors import Busy
from shardgate_gateway.etl.line import Place, WaitingLine, own_place

STAGE_SECONDS = 0.25
"""For a worker of an earlier stage, at the first try."""
PATIENT = 16
"""Times as long waits one that can't be the one to let go; workers of the other direction may be refused in turn."""
LONGER = 1.25
"""Times as long, after each refusal."""
BEGUN_SECONDS = 30.0
"""At least, for one whose result was read in part."""
STAGE_PAUSE_SECONDS = (0.05, 1.0)
"""Before a stage asks again whose input had no worker: chosen at random between these."""
_MOST = 30
"""Refusals that count; the time has long reached its limit then."""


SUCCESSES = 8
"""That let one more try, until the next refusal."""


class Tries(WaitingLine):
    """Requests of the same stages, of which some were refused.

    Attributes:
        successes: Tries that gave something, since the last refusal.
    """

    successes = 0

    def places(self, workers: int) -> int:
        """How many may try at a time, where the rarest stage has so many workers."""
        return workers + self.successes // SUCCESSES


@dataclass(slots=True)
class Hold:
    """The patience of one request, over all its tries.

    Attributes:
        limit: `etl.queue_seconds`.
        transform_id: What it needs a worker of.
        place: Of the reader; it has `seconds` where a worker waits for this request.
        waited: Seconds that refused tries took, with the pauses after them.
        begun: Some of the result was sent.
        turn, has_turn: To try, among requests of the same stages of which some were refused.
        tries: Those requests.
    """

    limit: float
    transform_id: str
    place: Place = field(default_factory=own_place)
    waited: float = 0.0
    begun: bool = False
    turn: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    has_turn: bool = False
    tries: Tries | None = None
    _tried_at: float = field(default_factory=time.monotonic)

    def try_begins(self, *, begun: bool) -> None:
        self.begun = begun
        self._tried_at = time.monotonic()

    @property
    def is_awaited(self) -> bool:
        """A worker is held until this request has one."""
        return self.place.is_awaited

    @property
    def start_seconds(self) -> float:
        """Until the transform must have started, and a worker must be free."""
        waited = self.waited + time.monotonic() - self._tried_at
        return self.limit if self.begun else max(self.limit - waited, STAGE_SECONDS)

    @property
    def line_seconds(self) -> float | None:
        """In line for a worker of a transform that has started; None: no limit of its own."""
        if self.place.seconds is None:
            return None
        is_patient = self.transform_id < self.place.held
        return self._at_least(self.place.seconds * (PATIENT if is_patient else 1))

    def input_place(self) -> Place:
        """Of the request for the input, by the worker that this request gets."""
        seconds = self.place.seconds
        if seconds is None:  # not all alike, or two that wait for each other would give up at once
            seconds = STAGE_SECONDS * LONGER ** min(self.place.refusals, _MOST) * random.uniform(1, 2)  # noqa: S311
        held = min(self.transform_id, self.place.held or self.transform_id)
        return replace(self.place, seconds=self._at_least(min(seconds, self.limit)), held=held)

    async def has_something(self) -> None:
        """Let the next one try."""
        if self.has_turn:
            self.has_turn = False
            if self.tries is not None:
                self.tries.successes += 1
                self.tries = None  # it is there as long as somebody waits or tries
            await self.turn.aclose()

    async def refused(self, error: Busy) -> None:
        """Return when it is time for the next try, after one whose input was refused.

        Raises:
            Busy: Who asked for this is to try again.
        """
        if self.is_awaited:
            raise error
        if self.tries is not None:
            self.tries.successes = 0
        self.place = replace(self.place, refusals=self.place.refusals + 1)
        pause = random.uniform(*STAGE_PAUSE_SECONDS)  # noqa: S311 (not at the same time as others)
        self.waited += time.monotonic() - self._tried_at + pause
        if self.waited >= self.limit and not self.begun:
            raise self.marked(Busy(error.message, hint=error.hint, retry_after=1.0))
        await asyncio.sleep(pause)

    def marked(self, error: Busy) -> Busy:
        """With the refusals, which the reader brings back."""
        error.refusals = self.place.refusals
        return error

    def _at_least(self, seconds: float) -> float:
        return max(seconds, BEGUN_SECONDS) if self.begun else seconds
