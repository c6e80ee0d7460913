"""The user's function with no gateway: webdataset reads the shard from a local file, decodes it and calls the function.

Runs as a process of its own (`python -m benchmarks.bare SHARD FUNCTION`), imports and warms up once, and then iterates
the whole shard whenever a line comes in, answering with the CPU seconds and wall seconds that took. One torch thread,
as in the gateway's workers. Nothing is encoded and nothing is kept: the least that any way of running it can cost.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Cost

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM_UP = 20


class Bare:
    """A waiting process that runs a function over a shard."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def run(self) -> Cost:
        assert self._process.stdin
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        cpu, seconds = self._answer().split()
        return Cost(float(cpu), float(seconds))

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the bare function's process died; its traceback stands above")
        return line


@contextmanager
def bare(shard: Path, function: str) -> Iterator[Bare]:
    command = [sys.executable, "-m", "benchmarks.bare", str(shard), function]
    here = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Bare(process)
        finally:
            process.terminate()


def _samples(shard: str, function: str) -> Iterator[Any]:
    import webdataset  # noqa: PLC0415  heavy, and only this process runs the function

    from benchmarks import functions  # noqa: PLC0415

    dataset = webdataset.WebDataset(shard, shardshuffle=False)
    return iter(dataset.decode("pil").map(getattr(functions, function)))


def main(shard: str, function: str) -> None:
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    for _ in islice(_samples(shard, function), WARM_UP):
        pass
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        for _ in _samples(shard, function):
            pass
        print(time.process_time() - cpu, time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
