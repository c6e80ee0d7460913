"""What every benchmark is given: how much to do, a folder to do it in, and a way to start a gateway."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import urllib3

from benchmarks.harness import Server, free_port, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done.

    Attributes:
        rounds: Turns of each comparison; the median of their ratios is the result.
        large: Bytes of the large object. gets: GETs of it per turn, while it is warm.
        seconds: Seconds per turn of small-object load. connections: its connections.
        photographs: Samples of the transformed shard.
        naps: Samples of the shard whose function sleeps.
        readers: Numbers of simultaneous readers of one cold object.
        slow_readers: Numbers of slow readers whose memory is measured.
        workers: Numbers of ETL workers.
    """

    rounds: int = 7
    large: int = 100_000_000
    gets: int = 40
    seconds: int = 3
    connections: int = 8
    photographs: int = 1000
    naps: int = 400
    readers: tuple[int, ...] = (1, 8, 32)
    slow_readers: tuple[int, ...] = (50, 200)
    workers: tuple[int, ...] = (2, 4)


FULL = Scale()
QUICK = Scale(rounds=3, gets=20, seconds=2, photographs=300, naps=150)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: its base URL, and the process tree under its supervisor."""

    url: str
    process: Server
    cache: Path

    def object(self, provider: str, bucket: str, key: str, **query: object) -> str:
        extra = "".join(f"&{name}={value}" for name, value in query.items())
        return f"{self.url}/v1/objects/{bucket}/{key}?provider={provider}{extra}"


@dataclass
class Bench:
    """One run: its scale, and a scratch folder that is removed with it."""

    scale: Scale
    root: Path
    _folders: int = field(default=0)

    def folder(self, name: str) -> Path:
        """A new path of its own below the scratch folder; the caller makes it."""
        self._folders += 1
        return self.root / f"{self._folders:02d}-{name}"

    def made_folder(self, name: str) -> Path:
        path = self.folder(name)
        path.mkdir()
        return path

    @contextmanager
    def gateway(self, buckets: Mapping[str, str], *, workers: int = 1, **environment: str) -> Iterator[Gateway]:
        """Start one with default settings but for its folders, its port and `environment`."""
        root, port = self.made_folder("gateway"), free_port()
        command = [sys.executable, "-m", "shardgate_gateway", "--port", str(port), "--workers", str(workers)]
        command += ["--cache-dir", str(root / "cache"), "--state-dir", str(root / "state")]
        for name, where in buckets.items():
            command += ["--bucket", f"{name}={where}"]
        url = f"http://127.0.0.1:{port}"
        with server(command, log=root / "output.log", env=environment) as process:
            process.wait_until(lambda: _answers(f"{url}/readyz"))
            yield Gateway(url, process, root / "cache")


def _answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, retries=False, timeout=5).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def random_file(path: Path, size: int) -> Path:
    """A file of `size` bytes that no store or disk can compress."""
    with path.open("wb") as file:
        while size:
            size -= file.write(os.urandom(min(size, 1 << 20)))
    return path
