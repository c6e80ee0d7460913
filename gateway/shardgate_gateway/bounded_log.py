"""Records that somebody else can cause as often as they like, bounded so that no flood of them fills a disk.

A wrong token or a store that is down makes a record per request. The first `BURST` of a kind are written as they come,
and then `PER_SECOND`; how many were left out is said with the next one that is written, or after `TELL_SECONDS`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

BURST = 50
PER_SECOND = 1.0
"""About 30 MB a day for each kind and process, if the flood never ends."""
TELL_SECONDS = 10.0


class BoundedLog:
    """Writes to a logger, but not without limit.

    Args:
        logger: Where the records go.
        what: What they are about, in the plural: "refused requests".
        clock: Monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._what = what
        self._clock = clock
        self._left = float(BURST)
        self._at = clock()
        self._omitted = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, level: int, message: str, *args: object, **options: Any) -> None:
        """Log this record, or count it."""
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        self._left = min(float(BURST), self._left + PER_SECOND * (now - self._at))
        self._at = now
        if self._left < 1:
            self._omit()
            return
        self._left -= 1
        self.tell()
        self._logger.log(level, message, *args, **options)

    def _omit(self) -> None:
        self._omitted += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self.tell)

    def tell(self) -> None:
        """Say how many records were left out since this was last said."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._omitted:
            self._logger.warning("%d more %s are left out of this log", self._omitted, self._what)
            self._omitted = 0
