"""Processes that user code started, and that outlive whoever started them.

The kernel gives a process whose parent died to the nearest "child subreaper" above it, also one that has a session of
its own (`setsid`, daemons). The runtime's parent is one, and so is each worker. A daemon of a worker that lives is thus
the worker's child; what comes to the parent was left by a worker that is dead, and is killed.

A worker can't tell what it adopted from what user code will wait for. So it takes the exit status of dead children only
while no user code runs, and only of those that nobody has waited for in some seconds (`Undertaker`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import contextmanager, suppress
from os import _exit, getpid  # user code may replace them in `os`
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PR_SET_CHILD_SUBREAPER = 36
END_SECONDS = 5.0
"""At the end of a process, for what it leaves to die. What hangs in the kernel may take longer than anybody waits."""
POLL_SECONDS = 0.01
RETURNED_TWICE = 71
"""Exit code of a child that user code forked and let return."""


def adopt_orphans() -> None:
    """Become the parent of everything below whose own parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Pids of this process' children, dead ones that nobody has waited for among them."""
    own = os.getpid()
    with suppress(OSError):  # a kernel may be built without it
        return [int(pid) for pid in Path(f"/proc/self/task/{own}/children").read_text(encoding="ascii").split()]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if int(stat_of(int(entry.name))[1]) == own:
                    found.append(int(entry.name))
    return found


class Undertaker:
    """Buries the dead children of an idle worker that nobody waits for."""

    def __init__(self) -> None:
        self._dead: set[int] = set()

    def look(self) -> bool:
        """Take the exit status of those that were dead at the last look already; whether there are children at all."""
        found = children()
        dead = {pid for pid in found if _is_dead(pid)}
        for pid in dead & self._dead:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._dead = dead - self._dead
        return bool(found)


def _is_dead(pid: int) -> bool:
    try:
        return stat_of(pid)[0] == "Z"
    except OSError:
        return False


def stat_of(pid: int) -> list[str]:
    """The words of /proc/PID/stat from the state on: state, parent, ... Raises OSError."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def kill_orphans(own: Collection[int]) -> bool:
    """Kill all children that are not `own`, and take the exit status of dead ones. Whether none is left.

    Those they leave become children in turn, so one call may not be enough.
    """
    orphans = [pid for pid in children() if pid not in own]
    for pid in orphans:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
    return not orphans


def kill_all_orphans() -> None:
    """End every process below this one; for a process that ends itself."""
    deadline = clock.monotonic() + END_SECONDS
    while not kill_orphans(()) and clock.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


@contextmanager
def one_process() -> Iterator[None]:
    """Run user code that may fork: a child that returns from it ends here, or there would be two workers in one job.

    The usual cause is `fork` and `exec` of a program that is not there: `exec` raises, in the child.
    """
    pid = getpid()
    try:
        yield
    finally:
        if getpid() != pid:
            os.write(2, b"a process that user code forked returned from it, and is ended here: use os._exit() there\n")
            _exit(RETURNED_TWICE)
