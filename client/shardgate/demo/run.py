"""The demo: shards of photographs, read raw and transformed, measured and checked.

The loaders of every tutorial, once with the transform in the loader's worker (the baseline) and once in the gateway.
Every pass is checked: the number of samples, and for the deterministic transform the very bytes. A demo that is not
right ends with an error, not with a table.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import urllib3
import webdataset as wds
from rich import box
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from shardgate import Client, WDTransform, embedded, install_opener, viz
from shardgate.capture import load_function
from shardgate.cli.output import count_bar
from shardgate.demo.shards import TRAIN, make_shards
from shardgate.errors import ShardgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BUCKET = "gcp://sharded-imagenet"
TRANSFORMS = Path(__file__).with_name("transforms.py")
BATCH = 64
VAL_SAMPLES = 20
"""A validation shard holds one in so many of the train shard's samples."""
FUNCTIONS = ("train_transform", "val_transform", "wd_transform", "wd_val_transform")
SHOWN = 4
OBTAINED = re.compile(r'^shardgate_reads_total\{[^}]*cache="(?:miss|computed)"\} (\S+)', re.MULTILINE)
"""Reads that no cache answered. (Hits say less: pods that transform read raw shards like any reader.)"""
CHECKED = 16


class DemoFailed(ShardgateError):
    pass


@dataclass(frozen=True)
class Pass:
    """One reading of a loader.

    Attributes:
        shards: Requests that it made.
        place: Where the transform ran: in the `loader`'s worker, in the `gateway`, or in `pods`.
        epoch: How many times the same was read, with this one.
        samples: That came.
        seconds: Until the last one.
        first: Seconds until the first one.
        cached: Requests that were answered from a cache.
    """

    shards: int
    place: str
    epoch: int
    samples: int
    seconds: float
    first: float
    cached: int

    @property
    def rate(self) -> float:
        return self.samples / self.seconds


def run(output: Path, *, samples: int, shards: int) -> None:
    """Make the shards in `output`, read them, print a table and draw `before-after.png`.

    Raises:
        DemoFailed: Something that was read is not what it should be.
        MissingExtra: The demo's packages are not installed.
    """
    console = Console()
    data, val_samples = output / "sharded-imagenet", max(1, samples // VAL_SAMPLES)
    total = samples + shards * val_samples
    with count_bar("photographs", total) as done:
        make_shards(data, samples, shards, val_samples, done)
    console.print(f"{1 + shards} shards, {total} photographs in {data}")
    if shutil.which("curl") is None:
        install_opener()
    with embedded({BUCKET: data}, log=output / "gateway.log") as client:
        console.print(f"gateway at {client.endpoint}")
        demo = Demo(client, samples, shards, val_samples)
        passes = demo.passes(console)
        demo.check_bytes()
        picture = output / "before-after.png"
        demo.draw(picture)
    console.print(table(passes))
    console.print(f"[bold]{picture}[/] shows the same samples before and after")


class Demo:
    """The loaders over a gateway, or several.

    Args:
        metrics: The metrics of all gateways; without it those of `client.endpoint`.
        place: Where transforms run, in the table's words.
    """

    def __init__(
        self,
        client: Client,
        samples: int,
        shards: int,
        val_samples: int,
        *,
        metrics: Callable[[], str] | None = None,
        place: str = "gateway",
    ) -> None:
        self.client = client
        self.metrics = metrics or self._own_metrics
        self.place = place
        self.samples, self.shards, self.val_samples = samples, shards, val_samples
        self.template = f"imagenet-val-{{000000..{shards - 1:06d}}}.tar"
        self.code = {name: load_function(f"{TRANSFORMS}:{name}") for name in FUNCTIONS}

    def passes(self, console: Console) -> list[Pass]:
        """Read everything there is to compare."""
        train_raw = self.client.object_url(BUCKET, TRAIN.format(0))
        val_raw = self.client.expand_object_urls(BUCKET, template=self.template)
        train = WDTransform(self.client, self.code["wd_transform"], transform_name="imagenet-train", verbose=True)
        val = WDTransform(self.client, self.code["wd_val_transform"], transform_name="imagenet-val", verbose=True)
        self.train_url = self.client.object_url(BUCKET, TRAIN.format(0), transform_id=train.uuid)
        self.val_urls = self.client.expand_object_urls(BUCKET, transform_id=val.uuid, template=self.template)
        one, many = self.samples, self.shards * self.val_samples
        plan: list[tuple[str, int, str | list[str], Iterable[Any], int]] = [
            ("loader", 1, train_raw, local_loader(train_raw, self.code["train_transform"]), one),
            (self.place, 1, self.train_url, gateway_loader(self.train_url), one),
            ("loader", 1, val_raw, local_loader(val_raw, self.code["val_transform"]), many),
            (self.place, 1, self.val_urls, gateway_loader(self.val_urls), many),
            (self.place, 2, self.val_urls, gateway_loader(self.val_urls), many),
            (self.place, 3, self.val_urls, gateway_loader(self.val_urls), many),
        ]
        passes = []
        for place, epoch, urls, loader, expected in plan:
            with console.status(f"reading, transform in the {place}"):
                passes.append(self._measure(place, epoch, urls, loader, expected))
        return passes

    def check_bytes(self) -> None:
        """Compare what the gateway makes of the first validation samples with the function called here."""
        raw = self.client.object_url(BUCKET, "imagenet-val-000000.tar")
        function = self.code["wd_val_transform"]
        mine = (function(sample) for sample in wds.WebDataset(raw, shardshuffle=False).decode("pil"))
        theirs = wds.WebDataset(self.val_urls[:1], shardshuffle=False).decode()
        for _, here, there in zip(range(CHECKED), mine, theirs, strict=False):
            same = here["__key__"] == there["__key__"] and here["cls"] == there["cls"]
            if not same or not np.array_equal(here["npy"], there["npy"]):
                raise DemoFailed(f"sample {here['__key__']} differs between the {self.place} and this process")

    def draw(self, picture: Path) -> None:
        """Write a sheet of the train shard's first samples before and after."""
        before = viz.shard_images(self.client.object_url(BUCKET, TRAIN.format(0)), SHOWN)
        after = viz.loader_images(gateway_loader(self.train_url), SHOWN)
        if [label for _, label in before] != [label for _, label in after]:
            raise DemoFailed("the transformed samples have other classes than the originals")
        viz.draw([("Before: as stored", before), (f"After: transformed in the {self.place}", after)]).savefig(picture)

    def _measure(self, place: str, epoch: int, urls: str | list[str], loader: Iterable[Any], expected: int) -> Pass:
        obtained = self._obtained()
        began = time.perf_counter()
        first, count = 0.0, 0
        for images, _ in loader:
            first = first or time.perf_counter() - began
            count += len(images)
        seconds = time.perf_counter() - began
        if count != expected:
            raise DemoFailed(f"transform in the {place}: {count} samples came instead of {expected}")
        shards = 1 if isinstance(urls, str) else len(urls)
        cached = max(0, shards - (self._obtained() - obtained))
        return Pass(shards, place, epoch, count, seconds, first, cached)

    def _obtained(self) -> int:
        """Requests so far whose answer was fetched or computed."""
        return sum(int(float(value)) for value in OBTAINED.findall(self.metrics()))

    def _own_metrics(self) -> str:
        return urllib3.request("GET", f"{self.client.endpoint}/metrics").data.decode()


def local_loader(urls: str | list[str], transform: Callable[[Any], Any]) -> Iterable[Any]:
    """The conventional way: raw shards, and the transform in the loader's worker."""
    return _loader(_dataset(urls).decode("pil").to_tuple("jpg;png;jpeg cls"), transform)


def gateway_loader(urls: str | list[str]) -> Iterable[Any]:
    """Shards that arrive transformed: the loader's worker only unpacks arrays."""
    return _loader(_dataset(urls).decode("rgb").to_tuple("npy cls"), transforms.ToTensor())


def _dataset(urls: str | list[str]) -> Any:
    return wds.WebDataset(urls, shardshuffle=False)


def _loader(tuples: Any, transform: Callable[[Any], Any]) -> Iterable[Any]:
    dataset = tuples.map_tuple(transform, int)
    loader: Iterable[Any] = wds.WebLoader(dataset, batch_size=BATCH, shuffle=False, num_workers=1)
    return loader


def table(passes: list[Pass]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("transform in", "epoch", "samples", "samples/s", "first sample", "shards from cache"):
        table.add_column(column, justify="left" if column == "transform in" else "right")
    for each in passes:
        rate, first, cached = f"{each.rate:.0f}", f"{each.first * 1000:.0f} ms", f"{each.cached} of {each.shards}"
        table.add_row(each.place, str(each.epoch), str(each.samples), rate, first, cached)
    return table
