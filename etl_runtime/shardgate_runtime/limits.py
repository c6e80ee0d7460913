"""What the kernel is asked to enforce: one thread per worker, bounded memory, no orphans."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

ENVIRONMENT = {
    # Workers are processes; a thread pool in each of them would only fight the others for the same cores.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    # Sets of strings iterate in the same order in every worker: same request, same bytes.
    "PYTHONHASHSEED": "0",
}
"""Read by Python and by native libraries when they start, hence set before anything is imported."""

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, signum: signal.Signals) -> None:
    """Have the kernel signal this process when its parent dies; exit at once if it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def prefer_to_be_killed() -> None:
    """When memory runs out, the kernel shall take a worker, which can be replaced, and not the gateway."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def limit_memory(extra: int) -> None:
    """Let the process allocate `extra` bytes beyond what it holds now; then allocations fail with MemoryError."""
    limit = _data_bytes() + extra
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """Private writable memory, which is what RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
