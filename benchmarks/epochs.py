"""The second epoch of a deterministic transform whose results are kept, and what keeping them costs the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import functions, photos
from benchmarks.harness import compare
from benchmarks.loads import fetch
from benchmarks.table import Aim, Row, ratio_row
from shardgate import Client, WDTransform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench

REPEAT = Aim("≥", 10)


def measure(bench: Bench) -> Iterator[Row]:
    shard = photos.shard(bench.scale.photographs)
    with bench.gateway({"file://photos": str(shard.parent)}) as gateway:
        client = Client(gateway.url)
        for name, function in (("float32", functions.val_float32), ("uint8", functions.val_uint8)):
            kept, passed = (
                WDTransform(client, function, transform_name=f"{policy}-{name}", cache=policy, workers=1).uuid
                for policy in ("always", "never")
            )

            def speed(etl: str, epoch: int) -> float:
                url = client.object_url("file://photos", shard.name, transform_id=etl, epoch=epoch)
                return bench.scale.photographs / fetch(url).seconds

            speed(passed, 0)
            epochs = range(bench.scale.rounds)
            firsts = [(speed(kept, epoch), speed(passed, epoch)) for epoch in epochs]
            pairs = [(speed(kept, epoch), first) for epoch, (first, _) in zip(epochs, firsts, strict=True)]
            what = f"repeat epoch, kept results, {name}"
            yield ratio_row("epochs", what, "first epoch", compare(pairs, float), aim=REPEAT, unit="samples/s")
            what = f"first epoch, results kept, {name}"
            yield ratio_row("epochs", what, "results not kept", compare(firsts, float), unit="samples/s")
