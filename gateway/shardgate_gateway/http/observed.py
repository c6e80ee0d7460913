"""Metrics that are looked up when somebody scrapes, and not counted: the cache as it is, the processes, the program.

The names of the processes' metrics are those that every Prometheus client has. They are sums over the supervisor and
the gateway processes below it; what ended workers used is the supervisor's, as their parent, so nothing ever goes back.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from shardgate_gateway.metrics import MULTIPROCESS_DIR
from shardgate_gateway.version import program_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from shardgate_gateway.cache.cache import CacheStat

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
UTIME, STIME, CUTIME, CSTIME, START, RSS = 11, 12, 13, 14, 19, 21
"""Places in /proc/PID/stat behind the name of the program; see proc(5)."""
MODULE = b"shardgate_gateway.app"


def cache_metrics(stat: CacheStat) -> Iterator[Metric]:
    """Of the whole node."""
    yield GaugeMetricFamily("shardgate_cache_used_bytes", "Bytes of the cache that are used.", stat.used_bytes)
    yield GaugeMetricFamily("shardgate_cache_capacity_bytes", "Bytes that the cache may use.", stat.capacity_bytes)
    yield GaugeMetricFamily("shardgate_cache_entries", "Objects and results in the cache.", stat.entries)


def build_metric() -> Metric:
    info = GaugeMetricFamily("shardgate_build_info", "Version of the program.", labels=["version", "python"])
    info.add_metric([program_version(), platform.python_version()], 1)
    return info


def process_metrics() -> Iterator[Metric]:
    """Of this gateway's processes. Nothing where no supervisor is above this one: there the library's own are."""
    if MULTIPROCESS_DIR not in os.environ:
        return
    supervisor = os.getppid()
    workers = [pid for pid in _children(supervisor) if MODULE in _read(pid, "cmdline").split(b"\0")]
    found = {pid: stat for pid in (supervisor, *workers) if (stat := _stat(pid))}
    above = found.get(supervisor)
    if above is None:
        return
    ticks = sum(stat[UTIME] + stat[STIME] for stat in found.values()) + above[CUTIME] + above[CSTIME]
    yield CounterMetricFamily("process_cpu_seconds", "CPU seconds of the gateway's processes.", ticks / TICKS)
    yield GaugeMetricFamily(
        "process_resident_memory_bytes", "Memory of them.", PAGE * sum(stat[RSS] for stat in found.values())
    )
    yield GaugeMetricFamily("process_open_fds", "Descriptors that they have open.", sum(map(_descriptors, found)))
    yield GaugeMetricFamily("process_start_time_seconds", "When the gateway started.", _boot() + above[START] / TICKS)
    yield GaugeMetricFamily("shardgate_workers", "Gateway processes that run.", len(found) - 1)


def _stat(pid: int) -> list[int]:
    """The numbers of /proc/PID/stat; empty where the process is gone."""
    _, _, rest = _read(pid, "stat").rpartition(b")")
    return [0, *map(int, rest.split()[1:])] if rest else []


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(pid, f"task/{pid}/children").split()]


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (names are enough)
    except OSError:
        return 0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _boot() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
