"""The chart from `helm install` until all is ready, with its images on every node, and how large these are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chart_release import installed

from benchmarks import pod_functions
from benchmarks.table import Aim, Row, value_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.cluster_lab import Lab

INSTALLED = Aim("≤", 30)
GATEWAY, RUNTIME = Aim("≤", 250), Aim("≤", 300)
ROUNDS = 3
WHAT = "chart with two gateways and a database, images present"


def measure(lab: Lab, bench: Bench) -> Iterator[Row]:
    seconds, sizes = [], []
    for _ in range(min(bench.scale.rounds, ROUNDS)):
        with installed(lab.cluster) as release:
            seconds.append(release.seconds)
            sizes.append(lab.unpacked_megabytes(release.gateways()[0]))
    yield value_row("chart", WHAT, "helm install", seconds, "s", aim=INSTALLED)
    yield value_row("chart", "image of the gateway", "unpacked", sizes, "MB", aim=GATEWAY)
    with lab.gateway(bench, "sizes") as gateway:
        gateway.register(pod_functions.unchanged)
        sizes = [lab.unpacked_megabytes(lab.pods(gateway)[0])]
    yield value_row("chart", "image of the slim runtime", "unpacked", sizes, "MB", aim=RUNTIME)
