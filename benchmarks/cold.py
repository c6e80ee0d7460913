"""Cold GETs: each object is asked for the first time, through the gateway and straight from the store, in turns.

Three stores. nginx and versitygw (S3) on loopback without limits are the worst case: no network is as fast as that, and
writing the cache file then is the price one sees. The remote one, the same nginx behind a proxy that gives every
connection the latency and bandwidth of a cloud's object store, is the case that the gateway is for.

The objects are hard links to one file, so the stores' page cache is warm and only the gateway's side is cold.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import obstore

from benchmarks.bench import random_file
from benchmarks.harness import GIB, Server, compare, in_turns, recycle_memory
from benchmarks.loads import Fetched, fetch
from benchmarks.peers import REMOTE, nginx_cache, nginx_origin, s3_bucket, shaped
from benchmarks.table import Aim, Row, ratio_row, value_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.bench import Bench, Gateway

THROUGHPUT = Aim("≥", 0.95)
FIRST_BYTE = Aim("≤", 5)


class Names:
    """Fresh names for the same bytes: every name is a new object to whoever caches."""

    def __init__(self, original: Path) -> None:
        self._original = original
        self._size = original.stat().st_size
        self._numbers = count()

    def fresh(self) -> str:
        """One more; memory to cache it in is at hand."""
        name = f"cold-{next(self._numbers):05d}"
        os.link(self._original, self._original.parent / name)
        recycle_memory(self._original.parent, 2 * self._size)
        return name


class Turn(NamedTuple):
    fetched: Fetched
    cpu: float


def measure(bench: Bench) -> Iterator[Row]:
    with ExitStack() as stack:
        origin = stack.enter_context(nginx_origin(bench.folder("origin"), bench.made_folder("files")))
        remote = stack.enter_context(shaped(bench.folder("distance"), origin.url, REMOTE))
        s3 = stack.enter_context(s3_bucket(bench.folder("s3")))
        files = Names(random_file(origin.files / "large", bench.scale.large))
        obstore.put(s3.store, "large", origin.files / "large")
        objects = Names(s3.folder / "large")
        buckets = {"http://near": origin.url, "http://far": remote, "aws://near": s3.where}
        gateway = stack.enter_context(bench.gateway(buckets))
        peer_url, peer = stack.enter_context(nginx_cache(bench.folder("cache"), origin.url))

        yield from _against_store(
            bench, gateway, "a remote store", ("http", "far"), files, lambda key: f"{remote}/{key}"
        )
        near = ("http", "near")
        yield from _against_store(bench, gateway, "nginx on loopback", near, files, lambda key: f"{origin.url}/{key}")
        yield from _against_store(bench, gateway, "S3 on loopback", ("aws", "near"), objects, s3.signed)
        yield from _against_cache(bench, gateway, files, peer_url, peer)


def _through(gateway: Gateway, provider: str, bucket: str, key: str) -> Turn:
    return _turn(gateway.process, gateway.object(provider, bucket, key))


def _turn(process: Server, url: str) -> Turn:
    before = process.cpu()
    fetched = fetch(url)
    return Turn(fetched, process.cpu_since(before))


def _against_store(
    bench: Bench, gateway: Gateway, name: str, bucket: tuple[str, str], names: Names, direct: Callable[[str], str]
) -> Iterator[Row]:
    pairs = in_turns(
        bench.scale.rounds,
        lambda: _through(gateway, *bucket, names.fresh()).fetched,
        lambda: fetch(direct(names.fresh())),
    )
    what = f"cold GET {bench.scale.large / 1e6:.0f} MB"
    against = f"straight from {name}"
    speed = compare(pairs, lambda got: got.size / got.seconds)
    yield ratio_row("cold", f"{what}, throughput", against, speed, aim=THROUGHPUT, unit="MB/s", scale=1e-6)
    first = compare(pairs, lambda got: got.first_byte * 1000)
    ours, theirs = first.medians()
    detail = f"{ours:.3g} / {theirs:.3g} ms"
    yield value_row("cold", f"{what}, first byte", against, first.differences, "ms", aim=FIRST_BYTE, detail=detail)


def _against_cache(bench: Bench, gateway: Gateway, names: Names, peer_url: str, peer: Server) -> Iterator[Row]:
    pairs = in_turns(
        bench.scale.rounds,
        lambda: _through(gateway, "http", "near", names.fresh()),
        lambda: _turn(peer, f"{peer_url}/{names.fresh()}"),
    )
    gib = bench.scale.large / GIB
    cpu = compare(pairs, lambda turn: turn.cpu / gib)
    what = f"cold GET {bench.scale.large / 1e6:.0f} MB"
    yield ratio_row("cold", f"{what}, CPU", "nginx proxy_cache, cold", cpu, unit="CPU-s/GiB")
    speed = compare(pairs, lambda turn: turn.fetched.size / turn.fetched.seconds)
    yield ratio_row("cold", f"{what}, throughput", "nginx proxy_cache, cold", speed, unit="MB/s", scale=1e-6)
