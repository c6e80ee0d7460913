"""Many readers of one cold object, through two gateway processes: how many bytes leave the store?

The store's own log is the witness: one object's worth is the least there can be.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.bench import random_file
from benchmarks.cold import Names
from benchmarks.loads import fetch, together
from benchmarks.peers import nginx_origin
from benchmarks.table import Aim, Row, value_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench, Gateway
    from benchmarks.peers import Origin

ONCE = Aim("≤", 1.0)
PROCESSES = 2


def measure(bench: Bench) -> Iterator[Row]:
    with ExitStack() as stack:
        origin = stack.enter_context(nginx_origin(bench.folder("origin"), bench.made_folder("files")))
        names = Names(random_file(origin.files / "large", bench.scale.large))
        gateway = stack.enter_context(bench.gateway({"http://files": origin.url}, workers=PROCESSES))
        for readers in bench.scale.readers:
            shares = [_share(bench, gateway, origin, names.fresh(), readers) for _ in range(bench.scale.rounds)]
            what = f"{readers} readers of one cold object, {PROCESSES} gateway processes"
            yield value_row("herd", what, "bytes of the object", shares, "x", aim=ONCE, detail="bytes the store sent")


def _share(bench: Bench, gateway: Gateway, origin: Origin, key: str, readers: int) -> float:
    before = origin.bytes_sent()
    url = gateway.object("http", "files", key)
    got = together([lambda: fetch(url)] * readers)
    assert all(one.size == bench.scale.large for one in got)
    return (origin.bytes_sent() - before) / bench.scale.large
