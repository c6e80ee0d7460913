"""What a container may use: processors and memory, by its control groups.

`os.cpu_count` sees the machine's processors even in a container that may use two of them. A group's limits hold for all
below it, so every level up to the root counts. In version 2 there is one tree and one file per limit; in version 1
every controller has a tree of its own. A container usually sees its own group as the root of the tree, and the path
that the kernel tells may then lead nowhere; the root is looked at in any case.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60
"""Version 1 says "no limit" by a number that no machine has."""
SHARED_OUT = 0.8
"""Share of the memory that workers may allocate; the rest is the parent, what all have loaded, and socket buffers."""


def processors() -> int:
    """Processors that can be busy at once, rounded up, at least one."""
    quotas = [float(os.cpu_count() or 1), float(len(os.sched_getaffinity(0)))]
    for text in _values("cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota != "max":
            quotas.append(int(quota) / int(period))
    for group in _levels("cpu"):
        allowed, per = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if allowed and per and int(allowed) > 0:
            quotas.append(int(allowed) / int(per))
    return max(1, math.ceil(min(quotas)))


def memory() -> int:
    """Bytes that all processes of this container may use together; 0 where nothing limits them."""
    limits = [int(text) for text in _values("memory", "memory.max") if text != "max"]
    limits += [int(text) for text in _values("memory", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit < UNLIMITED), default=0)


def memory_per_worker(workers: int) -> int:
    """Bytes that each of so many workers may allocate; 0 is no limit."""
    return int(memory() * SHARED_OUT / workers)


def _values(controller: str, name: str) -> Iterator[str]:
    return filter(None, (_read(group / name) for group in _levels(controller)))


def _levels(controller: str) -> Iterator[Path]:
    """Folders of this process' group and of those above it, in either version."""
    for line in (_read(OWN) or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            tree = ROOT if number == "0" else ROOT / controller
            group = tree / path.lstrip("/")
            yield from (level for level in (group, *group.parents) if level.is_relative_to(tree))


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return None
