"""All Prometheus metrics of the gateway.

Several worker processes share one port, so one scrape must sum over all of them. prometheus-client does that with one
memory-mapped file per process in `PROMETHEUS_MULTIPROC_DIR`, which the supervisor sets and cleans. Its files are named
by process id; we name them by worker number instead, so that the replacement of a crashed worker continues its counters
and files never pile up. Without that variable (a test, a script) metrics are those of this process.

Labels take few values: never a key, a request id or an etag. Buckets are those of the settings, transforms are named up
to a number (`transform_label`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
from prometheus_client.registry import Collector

from shardgate_gateway.metrics_files import AllocatedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
WORKER_NUMBER = "SHARDGATE_WORKER_NUMBER"

if MULTIPROCESS_DIR in os.environ and WORKER_NUMBER in os.environ:
    values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]
    values.ValueClass = values.MultiProcessValue(lambda: os.environ[WORKER_NUMBER])  # type: ignore[no-untyped-call]

REQUESTS = Counter("shardgate_http_requests", "Requests answered.", ["route", "status"])
DURATION = Histogram(
    "shardgate_http_request_duration_seconds",
    "Seconds from the request to the end of its answer.",
    ["route"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300),
)
FAST_SECONDS = 0.001
"""The first bucket of `DURATION`: what took less can be added up, see `observe_fast`."""
FAST = Counter(
    "shardgate_http_fast", "Those of the requests that were answered from memory as soon as they were parsed."
)
SENT_BYTES = Counter(
    "shardgate_http_sent_bytes",
    "Bytes of object bodies sent, by bucket and how they were obtained.",
    ["bucket", "cache"],
)
READS = Counter("shardgate_reads", "Objects read, by bucket and how they were obtained.", ["bucket", "cache"])
ABORTED = Counter(
    "shardgate_http_aborted", "Bodies that were broken off after their headers, so that the reader fails.", ["code"]
)
LEFT = Counter("shardgate_http_left", "Readers that left before the end of their body.")
FORWARDED = Counter(
    "shardgate_forwarded", "Requests for objects of another gateway, by what was done: proxy, redirect, skip.", ["how"]
)
RUNNING = Gauge("shardgate_http_running", "Requests being answered now.", multiprocess_mode="livesum")
REFUSED = Counter("shardgate_http_refused", "Connections answered 503 because no file descriptor was free.")

CACHE_EVICTIONS = Counter("shardgate_cache_evictions", "Entries removed from the cache to make room.")
CACHE_EVICTED_BYTES = Counter("shardgate_cache_evicted_bytes", "Bytes of entries removed to make room.")
CACHE_DAMAGED = Counter("shardgate_cache_damaged_entries", "Entries that did not match their checksums.")
CACHE_BYPASSES = Counter(
    "shardgate_cache_bypasses",
    "Reads served straight from the store, because the cache had no room or its disk failed.",
)
CACHE_DISK_ERRORS = Counter(
    "shardgate_cache_disk_errors",
    "Bodies that could not be kept because the disk failed, by error (ENOSPC, EIO).",
    ["error"],
)
CACHE_WRITABLE = Gauge(
    "shardgate_cache_writable", "1 while the cache can write to its disk, else 0.", multiprocess_mode="livemin"
)

UPSTREAM_DURATION = Histogram(
    "shardgate_upstream_request_duration_seconds",
    "Seconds until a store answered, not counting the body of what it sends.",
    ["bucket", "operation"],
    buckets=(0.005, 0.025, 0.1, 0.5, 2.5, 10, 60),
)
UPSTREAM_REQUESTS = Counter("shardgate_upstream_requests", "Requests to stores.", ["bucket", "operation"])
UPSTREAM_ERRORS = Counter(
    "shardgate_upstream_errors",
    "Requests to stores, and bodies from them, that failed.",
    ["bucket", "operation", "code"],
)
UPSTREAM_RECEIVED = Counter("shardgate_upstream_received_bytes", "Bytes of objects that stores sent.", ["bucket"])
UPSTREAM_SENT = Counter("shardgate_upstream_sent_bytes", "Bytes of objects that stores were sent.", ["bucket"])

ETL_JOBS = Counter(
    "shardgate_etl_jobs",
    "Shards, or parts of them, that a worker had, by name of the transform and how that ended.",
    ["transform", "outcome"],
)
ETL_SAMPLES = Counter("shardgate_etl_samples", "Samples that workers made.", ["transform"])
ETL_WAITING = Gauge("shardgate_etl_waiting", "Requests that wait for a worker now.", multiprocess_mode="livesum")
ETL_QUEUE = Histogram(
    "shardgate_etl_queue_duration_seconds",
    "Seconds that a request waited for a worker, the start of the transform included.",
    ["transform"],
    buckets=(0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300),
)
JOB_RUNS = Counter("shardgate_job_runs", "Runs of jobs in the background, by how they ended.", ["job", "outcome"])
JOB_SECONDS = Counter("shardgate_job_seconds", "Seconds that they took.", ["job"])
KUBERNETES_CALLS = Counter(
    "shardgate_kubernetes_calls", "Requests to the Kubernetes API, by answer.", ["method", "resource", "status"]
)
KUBERNETES_WATCHES = Counter("shardgate_kubernetes_watches", "Watches begun, by kind and cause.", ["kind", "cause"])

MAX_TRANSFORMS = 200
"""Names of transforms that get numbers of their own, per process: users make names as they like."""
OTHER = "(other)"
_transforms: set[str] = set()


def transform_label(transform_id: str) -> str:
    """The name in an id, as a label; of very many names the later ones share one."""
    name = transform_id.rpartition("-")[0] or transform_id
    if name in _transforms:
        return name
    if len(_transforms) >= MAX_TRANSFORMS:
        return OTHER
    _transforms.add(name)
    return name


def observe_fast(histogram: Histogram, count: int, seconds: float) -> None:
    """Add many observations at once, each of which falls into the first bucket; stands on internals of the library."""
    histogram._sum.inc(seconds)  # noqa: SLF001
    histogram._buckets[0].inc(count)  # noqa: SLF001


def scrape(now: Iterable[Metric] = ()) -> bytes:
    """The metrics of all worker processes in Prometheus' text format, with those that are only known now."""
    registry = CollectorRegistry()
    if MULTIPROCESS_DIR not in os.environ:
        registry.register(_Collected(PROCESS_REGISTRY.collect()))
    else:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_Collected(now))
    return generate_latest(registry)


class _Collected(Collector):
    """Metrics that are at hand."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


def forget_worker(folder: str, number: int) -> None:
    """Drop the gauges of a dead worker; its counters stay, and its replacement continues them."""
    multiprocess.mark_process_dead(number, folder)  # type: ignore[no-untyped-call]
