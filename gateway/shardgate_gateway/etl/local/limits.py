"""What this process may use of the machine: a container's quota, where there is one, else the machine itself.

`os.cpu_count` sees the host's processors even in a container that may use two of them, and workers beyond the quota
only throttle each other. A control group's limits hold for all below it, so every level up to the root counts.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
SHARED_OUT = 0.8
"""Share of the memory that workers may have; the rest is for the gateway and the page cache."""


def processors() -> int:
    """Processors that can be busy at once, rounded up, at least one."""
    quotas = [float(os.cpu_count() or 1), float(len(os.sched_getaffinity(0)))]
    for text in _limits("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota != "max":
            quotas.append(int(quota) / int(period))
    return max(1, math.ceil(min(quotas)))


def memory_per_worker(workers: int) -> int:
    """Bytes for each of `workers` processes."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    sizes += [int(text) for text in _limits("memory.max") if text != "max"]
    return int(min(sizes) * SHARED_OUT / workers)


def _limits(name: str) -> Iterator[str]:
    """The limit called `name` of this process' control group and of those above it (cgroup v2)."""
    lines = OWN.read_text(encoding="utf-8").splitlines() if OWN.exists() else []
    group = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = CGROUPS / group.lstrip("/")
    for level in (folder, *folder.parents):
        if level.is_relative_to(CGROUPS) and (file := level / name).is_file():
            yield file.read_text(encoding="ascii").strip()
