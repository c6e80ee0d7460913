"""Work that is done again and again, for as long as the gateway runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True, slots=True)
class Periodic:
    """A job that runs at intervals.

    Attributes:
        name: In metrics and logs, like "sweep packages".
        seconds: From the end of one run to the next, on average. The first run is so long after the start, too.
        run: One run. It may raise: the next run is tried all the same.
        spread: By which part the pause varies at random, so that gateways which were started together do not all
            work at the same time.
    """

    name: str
    seconds: float
    run: Callable[[], Awaitable[object]]
    spread: float = 0.5

    def pause(self) -> float:
        """Seconds until the next run."""
        return self.seconds * random.uniform(1 - self.spread, 1 + self.spread)  # noqa: S311 (spreads load)
