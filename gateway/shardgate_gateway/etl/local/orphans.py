"""Processes that a runtime left behind when it was killed.

A runtime ends all that was started below it. One that is killed itself can't, and what is in a session of its own does
not get the signal to its group either. So a gateway process is a "child subreaper": the kernel makes it the parent of
what is left. It knows such children by their session. All that the gateway starts itself stays in its own session, but
runtimes, and no process can come back into a session that it has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

PR_SET_CHILD_SUBREAPER = 36
END_SECONDS = 5.0
"""For what was killed to die."""
POLL_SECONDS = 0.01

_adopting = False


def adopt_orphans() -> None:
    """Become the parent of what runtimes leave behind; for a process that starts only those in another session."""
    global _adopting  # noqa: PLW0603 (a property of the process)
    _adopting = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


async def kill_orphans(runtimes: Collection[int]) -> None:
    """Kill what was left by a runtime that is none of the living `runtimes`, and what that leaves in turn."""
    deadline = time.monotonic() + END_SECONDS
    while _adopting and (orphans := _orphans(runtimes)) and time.monotonic() < deadline:
        for pid in orphans:
            _kill(pid)
        await asyncio.sleep(POLL_SECONDS)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)


def _orphans(runtimes: Collection[int]) -> list[int]:
    found, parent, session = [], os.getpid(), os.getsid(0)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) not in runtimes:
            with contextlib.suppress(OSError):
                words = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(words[1]) == parent and int(words[3]) != session:
                    found.append(int(entry.name))
    return found
