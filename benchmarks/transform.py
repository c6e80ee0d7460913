"""A transformed shard of photographs against the same function in one process with no gateway.

Cost: CPU of all gateway and worker processes, divided by the CPU of the bare process. The gateway's side reads the raw
shard from its cache, decodes what the function reads, calls, encodes to tar and delivers to a reader; the bare side
reads a local file, decodes and calls. So for a function that reads all, the ratio minus one is everything that
offloading costs; one that reads only the label is cheaper offloaded, for the photographs are not decoded. The reader's
own CPU is not counted: it is tiny (`loads.py`), and on another machine.

First sample: from sending the request until the last byte of the first sample has arrived, while a worker is idle.
"""

from __future__ import annotations

import tarfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import urllib3

from benchmarks import functions, photos
from benchmarks.bare import bare
from benchmarks.harness import Cost, compare, in_turns
from benchmarks.loads import Fetched, fetch
from benchmarks.table import Aim, Row, ratio_row, value_row
from shardgate import Client, WDTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.bench import Bench, Gateway

BARE = "the bare function in one process"
VARIANTS = {
    "float32": (functions.val_float32, Aim("≤", 1.15)),
    "uint8": (functions.val_uint8, Aim("≤", 1.05)),
    "label": (functions.next_class, Aim("≤", 0.2)),
}
FIRST_SAMPLE = Aim("≤", 15)
FIRST_SHARE = Aim("≤", 1)


class Turn(NamedTuple):
    cost: Cost
    fetched: Fetched


def measure(bench: Bench) -> Iterator[Row]:
    shard = photos.shard(bench.scale.photographs)
    with bench.gateway({"file://photos": str(shard.parent)}) as gateway:
        for name, (function, aim) in VARIANTS.items():
            yield from _variant(bench, gateway, shard, name, function, aim)


def _variant(
    bench: Bench, gateway: Gateway, shard: Path, name: str, function: Callable[..., object], aim: Aim
) -> Iterator[Row]:
    client = Client(gateway.url)
    etl = WDTransform(client, function, transform_name=f"val-{name}", cache="never", workers=1)
    url = client.object_url("file://photos", shard.name, transform_id=etl.uuid)
    mark = first_sample_bytes(url)

    def offloaded() -> Turn:
        before = gateway.process.cpu()
        fetched = fetch(url, mark=mark)
        return Turn(Cost(gateway.process.cpu_since(before), fetched.seconds), fetched)

    with ExitStack() as stack:
        alone = stack.enter_context(bare(shard, function.__name__))
        pairs = in_turns(bench.scale.rounds, offloaded, lambda: Turn(alone.run(), Fetched(0, 0, 0, 0)))
    what = f"transformed shard, {bench.scale.photographs} photographs, {name}"
    cpu = compare(pairs, lambda turn: turn.cost.cpu / bench.scale.photographs)
    yield ratio_row("transform", f"{what}, CPU", BARE, cpu, aim=aim, unit="ms/sample", scale=1e3)
    speed = compare(pairs, lambda turn: bench.scale.photographs / turn.cost.seconds)
    yield ratio_row("transform", f"{what}, one worker, speed", BARE, speed, unit="samples/s")
    yield from _first(name, [ours.fetched for ours, _ in pairs])


def _first(name: str, turns: list[Fetched]) -> Iterator[Row]:
    first = [turn.mark * 1e3 for turn in turns]
    what = f"first transformed sample, {name}"
    yield value_row("transform", what, "request sent", first, "ms", aim=FIRST_SAMPLE)
    share = [100 * turn.mark / turn.seconds for turn in turns]
    if name != "label":  # that shard is over so soon that its first sample is a large part
        yield value_row("transform", f"{what}, share", "the whole shard", share, "%", aim=FIRST_SHARE)


def first_sample_bytes(url: str) -> int:
    """Where in the transformed shard the second sample begins."""
    response = urllib3.request("GET", url, preload_content=False)
    if response.status != 200:
        raise RuntimeError(f"GET {url}: {response.status} {response.read()[:1000]!r}")
    keys: set[str] = set()
    try:
        with tarfile.open(fileobj=response, mode="r|") as tar:
            for member in tar:
                keys.add(member.name.split(".")[0])
                if len(keys) == 2:
                    return member.offset
    finally:
        response.close()
    raise RuntimeError(f"{url} has fewer than two samples")
