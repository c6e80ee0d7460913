"""W workers with W shards in flight against one worker with one.

A function that waits must overlap perfectly. One that computes can use no more than the cores, which the gateway and
the reader share with it here, and cores that are two threads of one do less than two cores do: so the same function in
as many bare processes stands beside it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import functions, photos
from benchmarks.bare import bare
from benchmarks.harness import compare, in_turns
from benchmarks.loads import fetch, together
from benchmarks.table import Aim, Row, ratio_row
from shardgate import Client, WDTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.bench import Bench, Gateway

ONE = "one worker, one shard"


def measure(bench: Bench) -> Iterator[Row]:
    naps, shard = photos.shard(bench.scale.naps), photos.shard(bench.scale.photographs)
    cores = os.cpu_count() or 1
    with bench.gateway({"file://photos": str(shard.parent)}) as gateway:
        for workers in bench.scale.workers:
            aim = Aim("≥", 0.95 * workers)
            yield _speedup(bench, gateway, naps, functions.nap, workers, "function that waits", aim, "")
        workers = min(max(bench.scale.workers), cores)
        aim = Aim("≥", 0.9 * workers)
        yield _speedup(bench, gateway, shard, functions.val_float32, workers, "function that computes", aim, "pil")
    yield _bare(bench, shard, min(max(bench.scale.workers), cores))


def _speedup(
    bench: Bench,
    gateway: Gateway,
    shard: Path,
    function: Callable[..., object],
    workers: int,
    name: str,
    aim: Aim,
    decoder: str,
) -> Row:
    def register(count: int) -> str:
        client = Client(gateway.url)
        label = f"{function.__name__.replace('_', '-')}-{count}"
        etl = WDTransform(client, function, transform_name=label, wd_decoder=decoder, cache="never", workers=count)
        return client.object_url("file://photos", shard.name, transform_id=etl.uuid)

    def turn(url: str, count: int) -> float:
        """Shards per second, from the slowest reader's point of view."""
        return count / max(one.seconds for one in together([lambda: fetch(url)] * count))

    many, single = register(workers), register(1)
    turn(many, workers), turn(single, 1)
    pairs = in_turns(bench.scale.rounds, lambda: turn(many, workers), lambda: turn(single, 1))
    what = f"{workers} workers, {workers} shards, {name}"
    return ratio_row("scaling", what, ONE, compare(pairs, float), aim=aim, unit="shards/s")


def _bare(bench: Bench, shard: Path, processes: int) -> Row:
    with ExitStack() as stack:
        alone = [stack.enter_context(bare(shard, "val_float32")) for _ in range(processes)]

        def turn(count: int) -> float:
            return count / max(cost.seconds for cost in together([one.run for one in alone[:count]]))

        pairs = in_turns(bench.scale.rounds, lambda: turn(processes), lambda: turn(1))
    what = f"{processes} bare processes, function that computes"
    return ratio_row("scaling", what, "one bare process", compare(pairs, float), unit="shards/s")
