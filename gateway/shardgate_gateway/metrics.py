"""All Prometheus metrics of the gateway.

Several worker processes share one port, so one scrape must sum over all of them. prometheus-client does that with one
memory-mapped file per process in `PROMETHEUS_MULTIPROC_DIR`, which the supervisor sets and cleans. Its files are named
by process id; we name them by worker number instead, so that the replacement of a crashed worker continues its counters
and files never pile up. Without that variable (a test, a script) metrics are those of this process.

Labels take few values: never a key, a request id or an etag.
"""

from __future__ import annotations

import os

from prometheus_client import REGISTRY as PROCESS_REGISTRY
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)

from shardgate_gateway.metrics_files import AllocatedDict

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
WORKER_NUMBER = "SHARDGATE_WORKER_NUMBER"

if MULTIPROCESS_DIR in os.environ and WORKER_NUMBER in os.environ:
    values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]
    values.ValueClass = values.MultiProcessValue(lambda: os.environ[WORKER_NUMBER])  # type: ignore[no-untyped-call]

REQUESTS = Counter("shardgate_http_requests", "Requests answered.", ["route", "status"])
SENT_BYTES = Counter("shardgate_http_sent_bytes", "Bytes of object bodies sent, by how they were obtained.", ["cache"])
READS = Counter("shardgate_reads", "Objects read, by how they were obtained.", ["cache"])
ABORTED = Counter(
    "shardgate_http_aborted", "Bodies that were broken off after their headers, so that the reader fails.", ["code"]
)
LEFT = Counter("shardgate_http_left", "Readers that left before the end of their body.")
FORWARDED = Counter(
    "shardgate_forwarded", "Requests for objects of another gateway, by what was done: proxy, redirect, skip.", ["how"]
)
RUNNING = Gauge("shardgate_http_running", "Requests being answered now.", multiprocess_mode="livesum")
ETL_JOBS = Counter("shardgate_etl_jobs", "Shards, or parts of them, that a worker had, by how that ended.", ["outcome"])
ETL_SAMPLES = Counter("shardgate_etl_samples", "Samples that workers made.")
ETL_WAITING = Gauge("shardgate_etl_waiting", "Requests that wait for a worker now.", multiprocess_mode="livesum")
KUBERNETES_CALLS = Counter(
    "shardgate_kubernetes_calls", "Requests to the Kubernetes API, by answer.", ["method", "resource", "status"]
)
KUBERNETES_WATCHES = Counter("shardgate_kubernetes_watches", "Watches begun, by kind and cause.", ["kind", "cause"])
REFUSED = Counter("shardgate_http_refused", "Connections answered 503 because no file descriptor was free.")
SECONDS = Histogram(
    "shardgate_http_seconds",
    "Seconds from the request to the end of its answer.",
    ["route"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300),
)


def scrape() -> bytes:
    """The metrics of all worker processes in Prometheus' text format."""
    if MULTIPROCESS_DIR not in os.environ:
        return generate_latest(PROCESS_REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_worker(folder: str, number: int) -> None:
    """Drop the gauges of a dead worker; its counters stay, and its replacement continues them."""
    multiprocess.mark_process_dead(number, folder)  # type: ignore[no-untyped-call]
