"""What readers notice when a pod or a node goes while another pod is ready: the longest time without a byte.

Eight readers read one transformed shard after the other, and compare every byte. Each pod has workers for all of them,
so a pause is the time that it takes to notice and to go on, and not that for a place.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import urllib3
from gateway_on_host import TOKEN, Readers

from benchmarks import pod_functions
from benchmarks.cluster_lab import GENEROUS_SECONDS
from benchmarks.pods import kill_pod
from benchmarks.table import Aim, Row, value_row
from cluster import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from gateway_on_host import HostGateway

    from benchmarks.bench import Bench
    from benchmarks.cluster_lab import Lab
    from cluster import Cluster

    Disturbance = Callable[[Cluster, dict[str, Any]], AbstractContextManager[None]]

READERS = 8
SAMPLES, SAMPLE_BYTES = 250, 20_000
SETTLE_SECONDS = 2.0
NODE_SECONDS = 12.0
"""That a node stays away, and its readers are watched."""
NODE_ROUNDS = 2
"""A node takes long to come back."""
POD, NODE = Aim("≤", 1), Aim("≤", 5)
WHAT = f"longest pause of {READERS} readers"


def measure(lab: Lab, bench: Bench) -> Iterator[Row]:
    with lab.gateway(bench, "lost") as gateway:
        gateway.put_shard("a.tar", samples=SAMPLES, size=SAMPLE_BYTES)
        transform = gateway.register(pod_functions.slowly_reversed, workers=READERS, replicas=2)
        scene = _Scene(lab, gateway, gateway.object_url("a.tar", transform_id=transform))
        rounds = bench.scale.rounds
        for how, disturb, aim in (
            ("nothing happens", _nothing, None),
            ("pod deleted", _delete, POD),
            ("all processes of a pod killed", _kill, POD),
        ):
            yield value_row("lost", WHAT, how, [scene.pause(disturb) for _ in range(rounds)], "s", aim=aim)
        if lab.cluster.script is not None:
            pauses = [scene.pause(_lose_node, NODE_SECONDS) for _ in range(min(rounds, NODE_ROUNDS))]
            yield value_row("lost", WHAT, "node lost", pauses, "s", aim=NODE)


class _Scene:
    """A transform in two pods, and what they make of the shard when nobody disturbs them."""

    def __init__(self, lab: Lab, gateway: HostGateway, url: str) -> None:
        self._lab = lab
        self._gateway = gateway
        self._url = url
        lab.until_ready(gateway, 2)
        answer = urllib3.request("GET", url, headers={"Authorization": f"Bearer {TOKEN}"})
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {answer.data!r}")
        self._digest = hashlib.sha256(answer.data).hexdigest()

    def pause(self, disturb: Disturbance, seconds: float = SETTLE_SECONDS) -> float:
        """The longest that any reader waited for a byte while something was done to a pod.

        Raises:
            RuntimeError: A body was broken off, or differed.
        """
        self._lab.until_ready(self._gateway, 2)
        with Readers(self._url, self._digest, READERS) as readers:
            wait_until(lambda: readers.wait > 0, GENEROUS_SECONDS, "the first byte")
            time.sleep(SETTLE_SECONDS)
            readers.forget()
            with disturb(self._lab.cluster, self._lab.pods(self._gateway)[0]):
                time.sleep(seconds)
        if readers.problems:
            raise RuntimeError(f"readers noticed: {readers.problems}")
        return max(readers.pause, readers.wait)


@contextmanager
def _nothing(_cluster: Cluster, _pod: dict[str, Any]) -> Iterator[None]:
    yield


@contextmanager
def _delete(cluster: Cluster, pod: dict[str, Any]) -> Iterator[None]:
    meta = pod["metadata"]
    cluster.kubectl("delete", "pod", meta["name"], "--wait=false", namespace=meta["namespace"])
    yield


@contextmanager
def _kill(cluster: Cluster, pod: dict[str, Any]) -> Iterator[None]:
    kill_pod(pod["metadata"]["uid"])
    yield
    with _delete(cluster, pod):  # the back-off of a container that died often would outlast the next turn's patience
        pass


def _lose_node(cluster: Cluster, pod: dict[str, Any]) -> AbstractContextManager[None]:
    return cluster.node_dead(pod["spec"]["nodeName"])
