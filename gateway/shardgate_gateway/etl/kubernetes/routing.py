"""Which pod gets the next job.

Pure bookkeeping, no input or output: the watch says which pods there are, the dispatcher says what happened to them.

**Who is eligible.** Pods that are ready and not terminating, as EndpointSlices tell it. A pod that refused a connection
is left out for a moment, longer each time, until it works again or its endpoint changes.

**Who is first.** The pod with the least work of ours per worker; among equals one on our node, then one in our zone,
then any of them: several gateways that all took the first by name would crowd it.

**What others do.** A pod serves several gateway processes, and each knows only its own jobs. Where a job waits longer
than a moment for a worker although our own jobs leave one free, others have it. So such a pod gets no second job to
wait there: the rest stays in our queue, from where it can still go anywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LEFT_OUT_SECONDS = 0.2
"""After a pod's first failure; doubles with each."""
MAX_LEFT_OUT_SECONDS = 5.0


@dataclass(slots=True)
class Here:
    """Where this gateway runs; "" is unknown."""

    node: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a ready pod is reached, and how many jobs it works on at a time."""

    pod: str
    address: str
    port: int
    node: str = ""
    zone: str = ""
    capacity: int = 1


def ready_endpoints(slices: Iterable[Mapping[str, Any]], capacity: int) -> Iterator[Endpoint]:
    """The pods that may get new jobs, from EndpointSlices as the API server sends them."""
    for piece in slices:
        ports = piece.get("ports") or ()
        for endpoint in piece.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if not ports or conditions.get("ready") is False or conditions.get("terminating"):
                continue
            yield Endpoint(
                pod=(endpoint.get("targetRef") or {}).get("name", endpoint["addresses"][0]),
                address=endpoint["addresses"][0],
                port=ports[0]["port"],
                node=endpoint.get("nodeName") or "",
                zone=endpoint.get("zone") or "",
                capacity=capacity,
            )


@dataclass(slots=True, eq=False)
class Pod:
    """What we know of one pod.

    Attributes:
        endpoint: As it was listed last.
        listed: It is ready now.
        taken: Jobs of ours that it has or is about to have.
        stuck: How many of these wait there for a worker.
        failures: Since it last worked.
        left_out_until: On the clock that `Routes` is asked with.
    """

    endpoint: Endpoint
    listed: bool = True
    taken: int = 0
    stuck: int = 0
    failures: int = 0
    left_out_until: float = 0.0

    @property
    def has_room(self) -> bool:
        return self.listed and self.stuck == 0 and self.taken < self.endpoint.capacity


class Routes:
    """The pods of one transform.

    Args:
        here: Which pods are near. May become known later; the zone does with any pod of this node.
    """

    def __init__(self, here: Here | None = None) -> None:
        self._here = here or Here()
        self._pods: dict[str, Pod] = {}

    @property
    def empty(self) -> bool:
        """No pod is ready."""
        return not any(pod.listed for pod in self._pods.values())

    @property
    def capacity(self) -> int:
        """Jobs that all ready pods can work on at a time."""
        return sum(pod.endpoint.capacity for pod in self._pods.values() if pod.listed)

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Take what is ready now. Pods that are not listed any more keep the jobs that they have, and get no other."""
        ready = {endpoint.pod: endpoint for endpoint in endpoints}
        for name, endpoint in ready.items():
            pod = self._pods.setdefault(name, Pod(endpoint))
            if endpoint.node == self._here.node and endpoint.zone:
                self._here.zone = endpoint.zone
            if not pod.listed or pod.endpoint != endpoint:
                pod.endpoint, pod.listed, pod.failures, pod.left_out_until = endpoint, True, 0, 0.0
        for name in self._pods.keys() - ready.keys():
            pod = self._pods[name]
            pod.listed = False
            if not pod.taken:
                del self._pods[name]

    def choose(self, now: float) -> Pod | None:
        """The best pod that has room for a job."""
        able = [pod for pod in self._pods.values() if pod.has_room and pod.left_out_until <= now]
        return min(able, key=self._rank, default=None)

    def take(self, pod: Pod) -> None:
        pod.taken += 1

    def give_back(self, pod: Pod) -> None:
        pod.taken -= 1
        if not pod.listed and not pod.taken and self._pods.get(pod.endpoint.pod) is pod:
            del self._pods[pod.endpoint.pod]

    def worked(self, pod: Pod) -> None:
        pod.failures, pod.left_out_until = 0, 0.0

    def failed(self, pod: Pod, now: float) -> None:
        """Leave a pod out for a moment. Failures of jobs that were on their way together count as one."""
        if pod.left_out_until <= now:
            pod.left_out_until = now + min(LEFT_OUT_SECONDS * 2.0**pod.failures, MAX_LEFT_OUT_SECONDS)
            pod.failures += 1

    def next_return(self, now: float) -> float | None:
        """When a pod that is left out and has room may be tried again, if there is one."""
        out = (pod.left_out_until for pod in self._pods.values() if pod.has_room and pod.left_out_until > now)
        return min(out, default=None)

    def _rank(self, pod: Pod) -> tuple[float, bool, bool, float]:
        endpoint, here = pod.endpoint, self._here
        elsewhere = not here.node or endpoint.node != here.node
        far = not here.zone or endpoint.zone != here.zone
        return pod.taken / endpoint.capacity, elsewhere, far, random.random()  # noqa: S311 (spreads load)
