"""The command line of the runtime."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from shardgate_runtime.cgroup import memory_per_worker, processors

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes takes a container's last words from."""
SUPERSEDED = "superseded"
"""A file in `run_dir`: the gateway has a newer version under this name."""


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
    superseded_idle_seconds: float = 0
    stall_seconds: float = 0
    drain_seconds: float = 20
    parent: int = 0
    stay: bool = False
    package_url: str = ""
    environment_url: str = ""
    token_file: Path | None = None
    status_port: int | None = None
    termination_log: Path | None = None

    @property
    def idle_limit(self) -> float:
        """Seconds without a job after which to exit, as things are; 0 is never."""
        is_superseded = self.superseded_idle_seconds and (self.run_dir / SUPERSEDED).exists()
        return self.superseded_idle_seconds if is_superseded else self.idle_seconds


def parse_options(arguments: list[str]) -> Options:
    """Read the command line; what it leaves to the container is filled in."""
    parser = argparse.ArgumentParser(prog="shardgate_runtime", description="Run one transform in worker processes.")
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--package", type=Path, help="file with the transform's package")
    source.add_argument("--package-url", default="", help="where to fetch it instead")
    add("--environment-url", default="", help="archive with the requirements that this Python lacks")
    add("--token-file", type=Path, help="file with the bearer token for these URLs, read anew for each request")
    add("--transform-id", required=True, help="the package's id; a package with another one is refused")
    add("--listen", required=True, help="unix:PATH or tcp:HOST:PORT")
    add("--run-dir", type=Path, required=True, help="folder for status.json and the lock")
    add("--workers", type=int, default=0, help="worker processes; 0 is one per processor of the container")
    add("--memory-bytes", type=int, default=0, help="bytes a worker may allocate; 0 is its share of the container's")
    add("--ring-bytes", type=int, default=Options.ring_bytes, help="bytes of shared memory per worker; 0 is none")
    add("--idle-seconds", type=float, default=0, help="seconds without a job after which to exit; 0 is never")
    add("--superseded-idle-seconds", type=float, default=0, help="the same while run-dir has a file `superseded`")
    add("--stall-seconds", type=float, default=0, help="limit for one sample of a transform that has none; 0 is none")
    add("--drain-seconds", type=float, default=Options.drain_seconds, help="after SIGTERM, for running jobs to end")
    add("--status-port", type=int, help="port of /healthz, /readyz, /status and /metrics; 0 takes a free one")
    add("--termination-log", type=Path, default=termination_log(), help="file for the reason of a failed start")
    add("--parent", type=int, default=0, help="pid of the process that starts this one, if it may die meanwhile")
    add("--stay", action="store_true", help="live on when the parent process dies")
    given = vars(parser.parse_args(arguments))
    # User code may change the working directory.
    given["run_dir"] = given["run_dir"].absolute()
    given["package"] = (given["package"] or given["run_dir"] / "package").absolute()
    given["workers"] = given["workers"] or processors()
    given["memory_bytes"] = given["memory_bytes"] or memory_per_worker(given["workers"])
    return Options(**given)


def termination_log() -> Path | None:
    """The container's, where it is in one."""
    return TERMINATION_LOG if TERMINATION_LOG.exists() else None
