"""How many pods a transform gets, from what its readers want.

`decide` is a pure function of what was seen. Up at once, for readers wait; down only when less was enough for a while,
for a pod that ends soon is started again; to nothing when nobody asked for `idle_seconds`. From nothing to one is not
decided here: whoever needs the first pod starts it, without waiting for the holder of the Lease.

**What can go wrong.** A gateway does not tell its demand (it hangs, it is cut off): then nobody is sent away for what
the others see, but more pods may come. A new holder of the Lease knows no past: it waits until it has one. A transform
was woken, and the gateways have yet to tell for whom: it can't have been idle for longer than it is awake. Somebody
stops the transform between reading and writing: the write is conditional on the version that was read, and is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.errors import GatewayError
from shardgate_gateway.etl.kubernetes.demand import Demand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from shardgate_gateway.etl.kubernetes.demand import Demands

LOOK_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the owner of a transform allows.

    Attributes:
        minimum: Pods that stay when nobody asks.
        maximum: Pods that there may be.
        workers: Jobs that one pod works on at a time.
        idle_seconds: Without demand, after which a minimum of 0 means none.
        calm_seconds: For so long fewer pods must have been enough before there are fewer.
    """

    minimum: int
    maximum: int
    workers: int
    idle_seconds: float
    calm_seconds: float


class Seen(NamedTuple):
    """Jobs that ran or waited at one time."""

    at: float
    jobs: int


@dataclass(frozen=True, slots=True)
class Target:
    """A Deployment to be scaled.

    Attributes:
        version: The one that was read.
        awake_seconds: Since it was made, or woken from zero.
    """

    transform_id: str
    name: str
    replicas: int
    version: str
    awake_seconds: float
    bounds: Bounds


def decide(seen: Sequence[Seen], idle_seconds: float, replicas: int, bounds: Bounds) -> int:
    """How many pods there should be.

    Args:
        seen: The demand, oldest first; the last is now. More than `calm_seconds` back does not count.
        idle_seconds: For how long there was no demand at all.
        replicas: How many there should be until now.
        bounds: What is allowed.
    """
    now = seen[-1]
    if now.jobs == 0 and bounds.minimum == 0 and (replicas == 0 or idle_seconds >= bounds.idle_seconds):
        return 0
    wanted = _pods(now.jobs, bounds)
    calm_since = now.at - bounds.calm_seconds
    known = seen[0].at <= calm_since
    lately = max(_pods(past.jobs, bounds) for past in seen if past.at >= calm_since)
    most = min(replicas, bounds.maximum)
    return max(wanted, min(most, lately) if known else most)


def _pods(jobs: int, bounds: Bounds) -> int:
    return min(max(math.ceil(jobs / bounds.workers), bounds.minimum, 1), bounds.maximum)


@dataclass(slots=True)
class _Past:
    """What one holder of the Lease saw of one transform."""

    since: float
    seen: deque[Seen] = field(default_factory=deque)

    def add(self, now: float, jobs: int, calm_seconds: float) -> None:
        self.seen.append(Seen(now, jobs))
        while len(self.seen) > 1 and self.seen[1].at <= now - calm_seconds:
            self.seen.popleft()


class Scaler:
    """Scales Deployments, for as long as it is let run: `run` is what the holder of the Lease does.

    Args:
        targets: The Deployments that are to be scaled: started, and not stopped by somebody.
        demands: What all gateways want; the second is whether every one of them said so.
        scale: Sets the replicas of one, unless it has changed since it was read.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[Target]],
        demands: Callable[[], Awaitable[tuple[Demands, bool]]],
        scale: Callable[[Target, int], Awaitable[None]],
    ) -> None:
        self._targets = targets
        self._demands = demands
        self._scale = scale
        self._past: dict[str, _Past] = {}

    async def run(self) -> None:
        self._past.clear()
        while True:
            await self.look(time.monotonic())
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, now: float) -> None:
        """Compare what there is with what there should be, once."""
        demands, complete = await self._demands()
        targets = {target.transform_id: target for target in self._targets()}
        self._past = {id: self._past.get(id) or _Past(now) for id in targets}  # noqa: A001
        for target in targets.values():
            await self._adjust(target, demands, now, complete=complete)

    async def _adjust(self, target: Target, demands: Demands, now: float, *, complete: bool) -> None:
        past = self._past[target.transform_id]
        demand = demands.get(target.transform_id) or Demand(0, now - past.since)
        past.add(now, demand.jobs, target.bounds.calm_seconds)
        idle_seconds = min(demand.idle_seconds, target.awake_seconds)
        wanted = decide(past.seen, idle_seconds, target.replicas, target.bounds)
        if wanted == target.replicas or (wanted < target.replicas and not complete):
            return
        log.info("%s: %d pods instead of %d for %d jobs", target.name, wanted, target.replicas, demand.jobs)
        try:
            await self._scale(target, wanted)
        except GatewayError as error:
            log.warning("%s could not be scaled: %s", target.name, error.message)
