"""Pods of a cluster on this machine, seen from outside: when they changed, which processes they are, what these cost.

A cluster of `tests/cluster/k8s` (or of kind) runs its nodes on this machine, so the processes of its pods are processes
here, and their control groups are named after the pods.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import process_stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cluster import Cluster

LINE = '{.metadata.name}|{.spec.nodeName}|{.status}{"\\n"}'
"""What is noted of a change, as a kubectl jsonpath."""
CONNECT_SECONDS = 1.0
"""For kubectl to ask and be answered: it does not say when, and some states last a tenth of that."""


@dataclass
class Seen:
    """What `kubectl get --watch` showed, line by line, each with the time at which it did."""

    lines: list[tuple[float, str]] = field(default_factory=list)

    def first(self, pattern: str) -> float:
        """When a line first showed this, on `time.monotonic`'s clock.

        Raises:
            RuntimeError: None did.
        """
        for at, line in list(self.lines):
            if re.search(pattern, line):
                return at
        raise RuntimeError(f"no change showed {pattern!r} among {len(self.lines)}")


@contextmanager
def watching(cluster: Cluster, namespace: str, kind: str, selector: str) -> Iterator[Seen]:
    """Note the changes of objects as a person with kubectl sees them."""
    command = ["kubectl", "--namespace", namespace, "get", kind, "--selector", selector, "--watch"]
    seen = Seen()
    with subprocess.Popen(
        [*command, "--output", f"jsonpath={LINE}"], env=cluster.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        reader = threading.Thread(target=_note, args=(process, seen), daemon=True)
        reader.start()
        time.sleep(CONNECT_SECONDS)
        try:
            yield seen
        finally:
            process.terminate()
            reader.join()


def _note(process: subprocess.Popen[str], seen: Seen) -> None:
    assert process.stdout
    for line in process.stdout:
        seen.lines.append((time.monotonic(), line))


def processes_of(uids: Iterable[str]) -> list[int]:
    """The processes of pods; empty where the pods are not on this machine."""
    # A cgroup of systemd writes `_` where the uid has `-`.
    wanted = [re.compile(uid.replace("-", "[-_]")) for uid in uids]
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and any(pattern.search(_cgroups(entry)) for pattern in wanted)
    ]


def cpu_of(uids: Iterable[str]) -> float:
    """CPU seconds of the pods' processes so far, with those that ended and were waited for."""
    return sum(stat.cpu for pid in processes_of(uids) if (stat := process_stat(pid)))


def kill_pod(uid: str) -> None:
    """End all processes of a pod at once, as a crash would."""
    for pid in processes_of([uid]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _cgroups(process: Path) -> str:
    try:
        return (process / "cgroup").read_text()
    except OSError:  # it ended meanwhile
        return ""
