"""Which objects are asked for so much that one gateway is not enough for them.

The owner of an object counts the requests that other gateways pass on to it. Past a threshold it answers with the
number of gateways that should have a copy, and whoever hears that remembers it for a while. When the time is over one
request asks the owner anew, and learns whether the object is still hot. Both books are bounded: what does not fit any
more is only not noticed as hot.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_SECONDS = 10.0
REMEMBERED_SECONDS = 60.0
MAX_OBJECTS = 8192


class Popularity:
    """What this gateway knows of hot objects, its own and those of others.

    Args:
        requests: Requests within 10 seconds that are worth one more copy; 0 never makes a copy.
        copies: Most gateways that hold an object.
        clock: Seconds.
    """

    def __init__(self, requests: int, copies: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = requests
        self._copies = copies
        self._clock = clock
        self._began = clock()
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._heard: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, thing: str) -> int:
        """Count a request for an object of ours; how many gateways should hold it, this one included."""
        if not self._requests:
            return 1
        elapsed = self._clock() - self._began
        if elapsed >= WINDOW_SECONDS:
            self._before = self._now if elapsed < 2 * WINDOW_SECONDS else {}
            self._now = {}
            self._began += elapsed
            elapsed = 0.0
        if thing in self._now or len(self._now) < MAX_OBJECTS:
            self._now[thing] = self._now.get(thing, 0) + 1
        # The window slides: of the one before, as much counts as it still covers.
        rate = self._now.get(thing, 0) + self._before.get(thing, 0) * (1 - elapsed / WINDOW_SECONDS)
        return min(self._copies, 1 + int(rate / self._requests))

    def heard(self, thing: str, copies: int) -> None:
        """The owner said that so many gateways should hold it."""
        self._heard[thing] = copies, self._clock() + REMEMBERED_SECONDS
        self._heard.move_to_end(thing)
        if len(self._heard) > MAX_OBJECTS:
            self._heard.popitem(last=False)

    def copies(self, thing: str) -> int:
        """How many gateways should hold it, as far as is known; 1 is the owner alone."""
        copies, until = self._heard.get(thing, (1, 0.0))
        if copies == 1 or self._clock() < until:
            return copies
        del self._heard[thing]
        return 1
