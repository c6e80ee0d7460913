"""What pods add to the CPU of a transformed shard: gateway and pod against gateway and processes, in turns.

Two gateways on this machine with the same settings, one whose workers are processes of its own, and one whose workers
are a pod, read the same shard of photographs for the same reader. Counted are all processes of the gateway and of the
pod. Between a gateway and its own processes bytes go through shared memory; to and from a pod, through TCP.

The image's Python is Debian's. Where this machine has that as well, it runs the processes too: two builds of Python
differ by more than what is measured here. What decoder and function took by their own clock stands in the second row.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway_on_host import TOKEN, gateway_on_host

from benchmarks import photos, pod_functions
from benchmarks.harness import TICK, compare, in_turns, process_tree
from benchmarks.loads import fetch
from benchmarks.pods import cpu_of
from benchmarks.table import Aim, Row, ratio_row
from shardgate import WDTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway_on_host import HostGateway

    from benchmarks.bench import Bench
    from benchmarks.cluster_lab import Lab

CPU = Aim("≤", 1.05)
EMBEDDED = "embedded mode"
FUNCTIONS = {"float32": pod_functions.val_float32, "uint8": pod_functions.val_uint8}
SYSTEM_PYTHON = "/usr/bin/python{}.{}".format(*sys.version_info[:2])
WARM_UPS = 2


class Turn(NamedTuple):
    """One shard: CPU seconds of gateway and workers, and what the worker says that decoder and function took."""

    cpu: float
    function: float


class Side:
    """A gateway and a transform of it, which has been used before. `pods`: the uids of its pods."""

    def __init__(self, gateway: HostGateway, pods: list[str], etl: WDTransform, shard: Path) -> None:
        shutil.copy(shard, gateway.shards)
        self._gateway = gateway
        self._pods = pods
        self._etl = etl
        self._url = gateway.object_url(shard.name, transform_id=etl.uuid)
        for _ in range(WARM_UPS):
            self.turn()

    def turn(self) -> Turn:
        """Read the shard once."""
        before, told = self._cpu(), self._function()
        fetch(self._url, token=TOKEN)
        return Turn(max(TICK, self._cpu() - before), self._function() - told)

    def _cpu(self) -> float:
        own = sum(stat.cpu for stat in process_tree(self._gateway.tree()[0]).values())
        return own + cpu_of(self._pods)

    def _function(self) -> float:
        stats = self._etl.stats()
        return float(stats["decode_seconds"] + stats["function_seconds"])


def measure(lab: Lab, bench: Bench) -> Iterator[Row]:
    shard = photos.shard(bench.scale.photographs)
    embedded = {"etl.runner": "local", "etl.python": str(_python(bench.folder("python")))}
    with (
        lab.gateway(bench, "cpu") as near,
        gateway_on_host(lab.cluster, "", lab.runtime_image, bench.folder("embedded"), settings=embedded) as alone,
    ):
        for name, function in FUNCTIONS.items():
            ours = _pod_side(lab, near, name, function, shard)
            etl = WDTransform(alone.client, function, name, cache="never", workers=1)
            theirs = Side(alone, [], etl, shard)
            yield from _rows(bench, name, in_turns(bench.scale.rounds, ours.turn, theirs.turn))


def _pod_side(lab: Lab, gateway: HostGateway, name: str, function: Callable[..., Any], shard: Path) -> Side:
    resources: dict[str, str | int | float] = {"cpu": 2, "memory": "1Gi"}
    etl = WDTransform(gateway.client, function, name, cache="never", workers=1, replicas=1, resources=resources)
    return Side(gateway, [pod["metadata"]["uid"] for pod in lab.pods(gateway, name)], etl, shard)


def _rows(bench: Bench, name: str, pairs: list[tuple[Turn, Turn]]) -> Iterator[Row]:
    samples = bench.scale.photographs
    what = f"transformed shard, {samples} photographs, {name}"
    cpu = compare(pairs, lambda turn: turn.cpu / samples)
    yield ratio_row("cpu", f"{what}, CPU of gateway and pod", EMBEDDED, cpu, aim=CPU, unit="ms/sample", scale=1e3)
    function = compare(pairs, lambda turn: turn.function / samples)
    yield ratio_row("cpu", f"{what}, decoder and function alone", EMBEDDED, function, unit="ms/sample", scale=1e3)


def _python(folder: Path) -> Path:
    """An interpreter for this machine's workers: Debian's with the packages of ours, if it is there."""
    if not Path(SYSTEM_PYTHON).exists():
        return Path(sys.executable)
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return folder / "bin" / "python"
