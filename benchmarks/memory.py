"""Memory of the gateway while many readers are slow.

Readers take a few kilobytes a second, so that every buffer on the way fills up and stays full. What is measured is the
growth of the resident memory of the gateway's processes, without the ETL workers, over what they had before the readers
came, at its highest; what it shares with a worker counts in full. The bound that we state and hold the rows to:
`READER` for each reader, and `TRANSFER` once for whatever is being fetched or transformed. Neither depends on the size
of the object.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import functions, photos
from benchmarks.bench import random_file
from benchmarks.harness import resident_bytes
from benchmarks.loads import SlowReaders, fetch
from benchmarks.peers import Distance, nginx_origin, shaped
from benchmarks.table import Aim, Row
from shardgate import Client, WDTransform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench, Gateway

MIB = 1 << 20
READER = 1 / 32
TRANSFER = 48
"""MiB. The rings of two workers or four parts on their way, 8 MiB each, and half as much that allocators keep."""
TRICKLE = Distance(latency_ms=1, megabytes_per_second=1)
"""Slow enough that the cold object is still being fetched when the memory is read."""
WATCH_SECONDS = 4


def measure(bench: Bench) -> Iterator[Row]:
    shard = photos.shard(bench.scale.photographs)
    with ExitStack() as stack:
        origin = stack.enter_context(nginx_origin(bench.folder("origin"), bench.made_folder("files")))
        slow_store = stack.enter_context(shaped(bench.folder("distance"), origin.url, TRICKLE))
        random_file(origin.files / "large", bench.scale.large)
        buckets = {"http://near": origin.url, "http://far": slow_store, "file://photos": str(shard.parent)}
        gateway = stack.enter_context(bench.gateway(buckets))
        client = Client(gateway.url)
        etl = WDTransform(client, functions.val_float32, transform_name="val", cache="never")
        warm = gateway.object("http", "near", "large")
        fetch(warm)
        urls = {
            "a warm object": warm,
            "a cold object": gateway.object("http", "far", "large"),
            "a transformed shard": client.object_url("file://photos", shard.name, transform_id=etl.uuid),
        }
        for name, url in urls.items():
            for readers in bench.scale.slow_readers:
                yield _growth(gateway, name, url, readers)


def _growth(gateway: Gateway, name: str, url: str, readers: int) -> Row:
    before = _resident(gateway)
    values: list[float] = []
    with SlowReaders([url] * readers):
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            values.append((_resident(gateway) - before) / MIB)
            time.sleep(0.1)
    bound = Aim("≤", READER * readers + TRANSFER)
    detail = f"{before / MIB:.0f} MiB before"
    what = f"{readers} slow readers of {name}"
    return Row("memory", what, "memory before", max(values), min(values), max(values), "MiB", bound, detail)


def _resident(gateway: Gateway) -> int:
    return sum(map(resident_bytes, gateway.process.pids(without="shardgate_runtime")))
