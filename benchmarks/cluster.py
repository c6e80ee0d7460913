"""Measure on a Kubernetes cluster, and print the table: `python -m benchmarks.cluster [--only NAME]... [--quick]`.

The cluster is that of the tests: the one that is up, or one that is started (`tests/support/cluster.py`). Its nodes are
to be on this machine: the processes of pods are counted and killed here. The gateway runs on this machine, too, but for
the chart's. Images are built of the working tree, and pulled to every node before anything is timed.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import typer

from benchmarks import cluster_chart, cluster_cpu, cluster_failures, cluster_losses, cluster_starts
from benchmarks.cluster_lab import Lab
from benchmarks.run import Json, Markdown, Only, Quick, publish
from cluster import running_cluster

BENCHMARKS = {
    "start": cluster_starts.measure,
    "zero": cluster_starts.measure_from_zero,
    "failures": cluster_failures.measure,
    "cpu": cluster_cpu.measure,
    "chart": cluster_chart.measure,
    "lost": cluster_losses.measure,
}


def main(only: Only = None, quick: Quick = False, json: Json = None, markdown: Markdown = None) -> None:
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as cluster:
        benchmarks = {name: partial(measure, Lab(cluster)) for name, measure in BENCHMARKS.items()}
        publish(
            "benchmarks.cluster",
            benchmarks,
            only=only,
            quick=quick,
            json=json,
            markdown=markdown,
            marks="cluster results",
        )


if __name__ == "__main__":
    typer.run(main)
