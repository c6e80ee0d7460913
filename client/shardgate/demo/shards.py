"""Shards in ImageNet's layout: `0911032.cls` with the class in digits, then `0911032.jpg`, and so on."""

from __future__ import annotations

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from shardgate.demo.photos import photographs, variation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAIN, VAL = "imagenet-train-{:06d}.tar", "imagenet-val-{:06d}.tar"
PER_SHARD = 10_000
"""Numbers of pictures that belong to one shard, at most; keeps shards apart whatever their size."""


def make_shards(folder: Path, samples: int, val_shards: int, val_samples: int, done: Callable[[], None]) -> None:
    """Write one train shard and some validation shards; `done` is called after each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = photographs()
    counts = {TRAIN.format(0): samples} | {VAL.format(index): val_samples for index in range(val_shards)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (name, count) in enumerate(counts.items()):
            numbers = range(number * PER_SHARD, number * PER_SHARD + count)
            with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
                for key, (jpeg, label) in zip(numbers, pool.map(partial(variation, photos), numbers), strict=True):
                    _add(tar, f"{key:07d}.cls", str(label).encode())
                    _add(tar, f"{key:07d}.jpg", jpeg)
                    done()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uname, member.gname = len(data), 0o444, "bigdata", "bigdata"
    tar.addfile(member, io.BytesIO(data))
