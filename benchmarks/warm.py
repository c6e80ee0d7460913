"""Warm GETs: the object is in the cache of both, and both have one worker process.

Large: CPU seconds per GiB and throughput of draining a 100 MB object over four keep-alive connections.
Small: requests per second of `wrk` on a 100 KB and a 4 KB object, and CPU per request.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.bench import random_file
from benchmarks.harness import GIB, Cost, Server, compare, cost, in_turns
from benchmarks.loads import drain_many, fetch, wrk
from benchmarks.peers import nginx_cache, nginx_origin
from benchmarks.table import Aim, Row, ratio_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench

PEER = "nginx proxy_cache, one worker each"
LARGE_CONNECTIONS = 4
SMALL = {"100 KB": (100_000, Aim("≥", 0.6)), "4 KB": (4_096, Aim("≥", 0.4))}


def measure(bench: Bench) -> Iterator[Row]:
    with ExitStack() as stack:
        files = bench.made_folder("files")
        random_file(files / "large", bench.scale.large)
        for size, _ in SMALL.values():
            random_file(files / str(size), size)
        origin = stack.enter_context(nginx_origin(bench.folder("origin"), files))
        gateway = stack.enter_context(bench.gateway({"http://files": origin.url}))
        peer_url, peer = stack.enter_context(nginx_cache(bench.folder("cache"), origin.url))
        ours = f"{gateway.url}/v1/objects/files/{{}}?provider=http"
        theirs = f"{peer_url}/{{}}"
        yield from _large(bench, (ours.format("large"), gateway.process), (theirs.format("large"), peer))
        for name, (size, aim) in SMALL.items():
            yield from _small(bench, name, aim, (ours.format(size), gateway.process), (theirs.format(size), peer))


def _large(bench: Bench, ours: tuple[str, Server], theirs: tuple[str, Server]) -> Iterator[Row]:
    def turn(url: str, process: Server) -> Cost:
        return cost(process, lambda: drain_many(url, gets=bench.scale.gets, connections=LARGE_CONNECTIONS))

    fetch(ours[0]), fetch(theirs[0])
    pairs = in_turns(bench.scale.rounds, lambda: turn(*ours), lambda: turn(*theirs))
    gib = bench.scale.gets * bench.scale.large / GIB
    name = f"warm GET {bench.scale.large / 1e6:.0f} MB"
    cpu = compare(pairs, lambda turn: turn.cpu / gib)
    yield ratio_row("warm", f"{name}, CPU", PEER, cpu, aim=Aim("≤", 1.0), unit="CPU-s/GiB")
    speed = compare(pairs, lambda turn: gib / turn.seconds)
    yield ratio_row("warm", f"{name}, throughput", PEER, speed, aim=Aim("≥", 1.0), unit="GiB/s")


def _small(bench: Bench, name: str, aim: Aim, ours: tuple[str, Server], theirs: tuple[str, Server]) -> Iterator[Row]:
    def turn(url: str, process: Server) -> tuple[float, float]:
        before = process.cpu()
        load = wrk(url, seconds=bench.scale.seconds, connections=bench.scale.connections)
        return load.per_second, process.cpu_since(before) / load.requests

    fetch(ours[0]), fetch(theirs[0])
    pairs = in_turns(bench.scale.rounds, lambda: turn(*ours), lambda: turn(*theirs))
    rate = compare(pairs, lambda turn: turn[0])
    yield ratio_row("warm", f"warm GET {name}, requests/s", PEER, rate, aim=aim, unit="k/s", scale=1e-3)
    cpu = compare(pairs, lambda turn: turn[1])
    yield ratio_row("warm", f"warm GET {name}, CPU", PEER, cpu, unit="µs/request", scale=1e6)
