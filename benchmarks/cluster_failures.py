"""Starts that can't succeed: how long after Kubernetes shows the reason its words reach whoever waits.

*Shows* is when `kubectl get --watch` beside it prints the status that tells; *words* are what `WDTransform(...,
verbose=True)` prints or raises.
"""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks import pod_functions
from benchmarks.pods import watching
from benchmarks.table import Aim, Row, value_row
from cluster import wait_until
from shardgate import TransformFailed, WDTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway_on_host import HostGateway

    from benchmarks.bench import Bench
    from benchmarks.cluster_lab import Lab

TOLD = Aim("≤", 3)
PATIENCE_SECONDS = 4
REST_SECONDS = 90
ROUNDS = 3
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "enough-for-some"},
    "spec": {"hard": {"limits.memory": "4Gi"}},
}


@dataclass(frozen=True)
class Failure:
    """A way in which a start fails.

    Attributes:
        name: Of the transform, and in the table.
        shown: In the status of `kind`, what tells. words: What its owner reads.
        options: Of the transform.
    """

    name: str
    shown: str
    words: str
    kind: str = "pods"
    function: Callable[..., Any] = pod_functions.unchanged
    options: dict[str, Any] = field(default_factory=dict)


FAILURES = (
    Failure("no-such-image", "ErrImagePull", "can't be pulled", options={"image": "nowhere/no-such-image:1"}),
    Failure("no-node-fits", "Unschedulable", "no node fits", options={"node_selector": {"disk": "made-of-gold"}}),
    Failure("setup-raises", '"exitCode":78', "there is no licence", function=pod_functions.NeedsLicence),
    Failure("out-of-memory", "OOMKilled", "is too small", options={"resources": {"memory": "20Mi"}}),
    Failure("quota", "ReplicaFailure", "quota is used up", "deployments", options={"resources": {"memory": "8Gi"}}),
)


def measure(lab: Lab, bench: Bench) -> Iterator[Row]:
    settings = {"kubernetes.patience_seconds": PATIENCE_SECONDS, "kubernetes.allowed_images": '["nowhere/*"]'}
    with lab.gateway(bench, "failures", **settings) as gateway:
        lab.cluster.apply(QUOTA, namespace=gateway.namespace)
        for failure in FAILURES:
            turns = [_fail(lab, gateway, failure, number) for number in range(min(bench.scale.rounds, ROUNDS))]
            yield value_row("failures", f"its owner is told: {failure.name}", "kubectl shows it", turns, "s", aim=TOLD)


class _Stamped(io.StringIO):
    """What is printed, and when a phrase was first in it."""

    def __init__(self, phrase: str) -> None:
        super().__init__()
        self._phrase = phrase
        self.at: float | None = None

    def write(self, text: str) -> int:
        if self.at is None and self._phrase in text:
            self.at = time.monotonic()
        return super().write(text)


def _fail(lab: Lab, gateway: HostGateway, failure: Failure, number: int) -> float:
    name = f"{failure.name}-{number}"
    out = _Stamped(failure.words)
    with watching(lab.cluster, gateway.namespace, failure.kind, f"shardgate.io/name={name}") as seen:
        try:
            with redirect_stdout(out):
                WDTransform(gateway.client, failure.function, name, "", verbose=True, cache="never", **failure.options)
        except TransformFailed as error:
            out.write(str(error))
        wait_until(lambda: any(failure.shown in line for _, line in seen.lines), REST_SECONDS, "kubectl to show it")
    gateway.client.transforms.delete(name)
    if out.at is None:
        raise RuntimeError(f"nobody said {failure.words!r}: {out.getvalue()}")
    return max(0.0, out.at - seen.first(failure.shown))
