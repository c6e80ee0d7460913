"""What a policy of keeping results costs the first read, and what it saves the second one.

`never`, `auto` and `always` read the same shards in turns, each epoch new to all three. The small results are as many
to a turn as make its CPU time longer than the clock's tick. Between two reads of one result a moment passes, as there
does between two epochs, so what is written in the background is written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import functions, photos
from benchmarks.harness import Comparison
from benchmarks.loads import fetch
from benchmarks.table import ratio_row
from shardgate import Client, WDTransform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench, Gateway, Scale
    from benchmarks.table import Row

READS = {"never": ("first", "second"), "auto": ("first", "second", "third"), "always": ("first", "second")}
"""Of each policy; a large result is kept by `auto` at the second one, so the third one comes from the cache."""
POLICIES = tuple(READS)
PAUSE_SECONDS = 0.3
PHOTOGRAPH_MB = 0.602


@dataclass(frozen=True, slots=True)
class Size:
    """Results of one size: photographs per shard, and results per turn."""

    photographs: int
    results: int

    @property
    def name(self) -> str:
        return f"{self.photographs * PHOTOGRAPH_MB:.3g} MB"

    def within(self, scale: Scale) -> Size:
        return Size(min(self.photographs, scale.photographs), min(self.results, scale.gets))


SIZES = (Size(1, 40), Size(27, 8), Size(500, 1))
"""Smaller than `etl.small_result_bytes`; just so; and larger."""


class Read(NamedTuple):
    """The results of one turn, read once: seconds of wall clock, CPU seconds of gateway and worker, first byte."""

    seconds: float
    cpu: float
    first_byte: float


def measure(bench: Bench) -> Iterator[Row]:
    sizes = [size.within(bench.scale) for size in SIZES]
    shards = [photos.shard(size.photographs) for size in sizes]
    with bench.gateway({"file://photos": str(shards[0].parent)}) as gateway:
        client = Client(gateway.url)
        etls = {
            policy: WDTransform(
                client, functions.val_float32, transform_name=f"{policy}-results", cache=policy, workers=1
            ).uuid
            for policy in POLICIES
        }
        epoch = 0
        for size, shard in zip(sizes, shards, strict=True):
            first_epoch, epoch = epoch, epoch + 2 + bench.scale.rounds * size.results
            yield from _rows(size, _turns(gateway, client, etls, size, shard.name, bench.scale.rounds, first_epoch))


def _turns(
    gateway: Gateway, client: Client, etls: dict[str, str], size: Size, name: str, rounds: int, epoch: int
) -> dict[tuple[str, str], list[Read]]:
    """By policy and read, one entry a turn; `epoch` and those behind it are new."""

    def read(policy: str, epochs: range) -> Read:
        cpu, begin = gateway.process.cpu(), time.perf_counter()
        urls = (client.object_url("file://photos", name, transform_id=etls[policy], epoch=n) for n in epochs)
        first_byte = sum(fetch(url).first_byte for url in urls) / len(epochs)
        return Read(time.perf_counter() - begin, gateway.process.cpu_since(cpu), first_byte)

    for policy in POLICIES:
        read(policy, range(epoch, epoch + 2))
    turns: dict[tuple[str, str], list[Read]] = {
        (policy, which): [] for policy, reads in READS.items() for which in reads
    }
    for turn in range(rounds):
        epochs = range(epoch + 2 + turn * size.results, epoch + 2 + (turn + 1) * size.results)
        shift = turn % len(POLICIES)
        for policy in (*POLICIES[shift:], *POLICIES[:shift]):
            for which in READS[policy]:
                turns[policy, which].append(read(policy, epochs))
                time.sleep(PAUSE_SECONDS)
        client.cache.evict("file://photos", name)  # so that no turn pays for writing an earlier one's results to disk
    return turns


def _rows(size: Size, turns: dict[tuple[str, str], list[Read]]) -> Iterator[Row]:
    base = turns["never", "first"]
    per = 1000 / size.results
    for (policy, which), reads in turns.items():
        if reads is base:
            continue
        what, against = f"{size.name}, {policy}, {which} read", "never, first read"
        wall = Comparison(tuple(r.seconds for r in reads), tuple(r.seconds for r in base))
        cpu = Comparison(tuple(r.cpu for r in reads), tuple(r.cpu for r in base))
        begun = Comparison(tuple(r.first_byte for r in reads), tuple(r.first_byte for r in base))
        yield ratio_row("policies", f"{what}, time", against, wall, unit="ms/result", scale=per)
        yield ratio_row("policies", f"{what}, CPU", against, cpu, unit="ms/result", scale=per)
        yield ratio_row("policies", f"{what}, first byte", against, begun, unit="ms", scale=1000)
