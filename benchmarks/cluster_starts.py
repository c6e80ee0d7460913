"""From a call to a transform that answers: a new one, and one whose pods were taken away because nobody asked.

The image is on every node, and the function imports nothing of its own: what is left is the cluster's and ours.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import urllib3
from gateway_on_host import TOKEN

from benchmarks.pods import watching
from benchmarks.table import Aim, Row, value_row
from cluster import wait_until
from shardgate import WDTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway_on_host import HostGateway

    from benchmarks.bench import Bench
    from benchmarks.cluster_lab import Lab

READY = Aim("≤", 3)
FROM_ZERO = Aim("≤", 4)
STAGES = {
    "pod seen": r"\|",
    "scheduled": r"^[^|]+\|[^|]+\|",
    "container runs": r'"state":\{"running"',
    "pod ready": r'"status":"True","type":"Ready"',
}
"""How far a start is, by what of the pod is seen first."""
IDLE_SECONDS = 2
CALM_SECONDS = 1
REST_SECONDS = 90


def named(number: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function like no other, so that nobody has started it before."""

    def numbered(sample: dict[str, Any]) -> dict[str, Any]:
        sample["number"] = str(number)
        return sample

    return numbered


def measure(lab: Lab, bench: Bench) -> Iterator[Row]:
    with lab.gateway(bench, "start") as gateway:
        runs = [_start(lab, gateway, number) for number in range(bench.scale.rounds)]
    seconds = [run["ready"] for run in runs]
    middle = sorted(runs, key=lambda run: run["ready"])[len(runs) // 2]
    detail = ", ".join(f"{stage} {at:.2f}" for stage, at in middle.items())
    yield value_row("start", "WDTransform to ready, image present", "called", seconds, "s", aim=READY, detail=detail)


def measure_from_zero(lab: Lab, bench: Bench) -> Iterator[Row]:
    settings = {"etl.idle_seconds": IDLE_SECONDS, "kubernetes.calm_seconds": CALM_SECONDS}
    with lab.gateway(bench, "zero", **settings) as gateway:
        gateway.put_shard("a.tar", samples=10, size=10_000)
        transform = gateway.register(named(0), start=False)
        url = gateway.object_url("a.tar", transform_id=transform)
        first_byte(url)
        seconds = []
        for _ in range(bench.scale.rounds):
            _until_at_rest(lab, gateway, transform)
            seconds.append(first_byte(url))
    yield value_row("zero", "first byte of a transform without pods", "GET sent", seconds, "s", aim=FROM_ZERO)


def first_byte(url: str) -> float:
    """Seconds from a GET to the first byte of its body, all of which is read."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with urllib3.request("GET", url, headers=headers, preload_content=False, retries=False, timeout=120) as response:
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status}: {response.data!r}")
        response.read(1)
        seconds = time.monotonic() - began
        response.drain_conn()
    return seconds


def _start(lab: Lab, gateway: HostGateway, number: int) -> dict[str, float]:
    """Seconds from the call until each stage, the last of which is that the call returned."""
    name = f"start-{number}"
    with watching(lab.cluster, gateway.namespace, "pods", f"shardgate.io/name={name}") as seen:
        began = time.monotonic()
        transform = WDTransform(gateway.client, named(number), name, cache="never")
        done = time.monotonic()
        wait_until(lambda: bool(lab.pods(gateway, name)), REST_SECONDS, "kubectl to say so, too")
    transform.delete()
    wait_until(partial(_gone, lab, gateway, name), REST_SECONDS, "its pods to end")
    return {stage: seen.first(pattern) - began for stage, pattern in STAGES.items()} | {"ready": done - began}


def _until_at_rest(lab: Lab, gateway: HostGateway, transform: str) -> None:
    show = gateway.client.transforms.show
    wait_until(lambda: show(transform)["state"] == "idle", REST_SECONDS, "it to be idle")
    wait_until(partial(_gone, lab, gateway, ""), REST_SECONDS, "its pods to end")


def _gone(lab: Lab, gateway: HostGateway, name: str) -> bool:
    selector = f"shardgate.io/name={name}" if name else "app.kubernetes.io/component=etl"
    return not lab.cluster.get("pods", namespace=gateway.namespace, selector=selector)
