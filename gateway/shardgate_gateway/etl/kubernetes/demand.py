"""How much work there is for each transform, summed over the processes of a gateway.

Readers come to whichever process takes their connection, so each knows a part. Every process keeps its part in a small
file of its own beside the others', written at once as a whole, and any of them can sum them up. The file of a process
that died stops being fresh, and then counts no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

PUBLISH_SECONDS = 1.0
FRESH_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demand:
    """What readers want of one transform: jobs that run or wait, and for how long there was none."""

    jobs: int
    idle_seconds: float

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.jobs + other.jobs, min(self.idle_seconds, other.idle_seconds))


Demands = dict[str, Demand]
"""By transform id."""


def total(parts: Iterable[Mapping[str, Demand]]) -> Demands:
    """The sum of the demands that several saw."""
    together: Demands = {}
    for part in parts:
        for transform, demand in part.items():
            together[transform] = together[transform] + demand if transform in together else demand
    return together


def to_json(demands: Mapping[str, Demand]) -> dict[str, dict[str, float]]:
    return {transform: asdict(demand) for transform, demand in demands.items()}


def from_json(data: Mapping[str, Mapping[str, float]]) -> Demands:
    """Raises KeyError, TypeError or ValueError where it is none."""
    return {key: Demand(int(value["jobs"]), float(value["idle_seconds"])) for key, value in data.items()}


class DemandBoard:
    """Where the processes of one gateway tell their demands.

    Args:
        folder: Theirs alone.
        name: Of this process; its replacement has the same.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._file = folder / f"{name}.json"

    def publish(self, demands: Mapping[str, Demand]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(to_json(demands)))
        draft.replace(self._file)

    def withdraw(self) -> None:
        self._file.unlink(missing_ok=True)

    def read(self) -> Demands:
        """What all processes published, by those that are alive."""
        return total(part for file in self._folder.glob("*.json") if (part := _fresh(file)) is not None)

    async def keep_publishing(self, demands: Callable[[], Mapping[str, Demand]]) -> None:
        """Publish until cancelled."""
        try:
            while True:
                try:
                    self.publish(demands())
                except OSError as error:
                    log.warning("%s: demand is not published: %s", self._file, error.strerror)
                await asyncio.sleep(PUBLISH_SECONDS)
        finally:
            with contextlib.suppress(OSError):
                self.withdraw()


def _fresh(file: Path) -> Demands | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if time.time() - file.stat().st_mtime < FRESH_SECONDS:
            return from_json(json.loads(file.read_text()))
    return None
