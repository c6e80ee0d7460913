"""The command line of the runtime."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The command line. Sizes are in bytes, times in seconds; 0 is no limit, and no ring."""

    package: Path
    transform_id: str
    listen: str
    run_dir: Path
    workers: int
    memory_bytes: int = 0
    ring_bytes: int = 8 << 20
    idle_seconds: float = 0
    stall_seconds: float = 0
    parent: int = 0
    stay: bool = False


def parse_options(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="shardgate_runtime", description="Run one transform in worker processes.")
    add = parser.add_argument
    add("--package", type=Path, required=True, help="file with the transform's package")
    add("--transform-id", required=True, help="the package's id; a package with another one is refused")
    add("--listen", required=True, help="unix:PATH or tcp:HOST:PORT")
    add("--run-dir", type=Path, required=True, help="folder for status.json and the lock")
    add("--workers", type=int, required=True, help="worker processes")
    add("--memory-bytes", type=int, default=0, help="bytes a worker may allocate once loaded; 0 is no limit")
    add("--ring-bytes", type=int, default=Options.ring_bytes, help="bytes of shared memory per worker; 0 is none")
    add("--idle-seconds", type=float, default=0, help="seconds without a job after which to exit; 0 is never")
    add("--stall-seconds", type=float, default=0, help="limit for one sample of a transform that has none; 0 is none")
    add("--parent", type=int, default=0, help="pid of the process that starts this one, if it may die meanwhile")
    add("--stay", action="store_true", help="live on when the parent process dies")
    return Options(**vars(parser.parse_args(arguments)))
