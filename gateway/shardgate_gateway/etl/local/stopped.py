"""Ends a runtime whose processes are all stopped (SIGSTOP): it is not dead, and answers nobody.

A runtime's parent ends a worker that is stopped. Where the parent is stopped itself, jobs would wait in the queue of
its socket, reader after reader. How long a job may rightly wait there nobody can say, so a limit of time would hit
those that do nothing wrong. The kernel says which processes are stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

LOOK_SECONDS = 5.0
"""Between two looks; who is stopped at both of them is ended."""
STOPPED, DEAD = "T", frozenset("ZX")

log = logging.getLogger(__name__)


@contextlib.contextmanager
def ending_stopped(pids: Callable[[], Collection[int]]) -> Iterator[None]:
    """While somebody waits for a runtime, look now and then whether it is stopped as a whole, and kill it then.

    Args:
        pids: Gives the processes of the runtime.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    was_stopped = False

    def look() -> None:
        nonlocal timer, was_stopped
        found = pids()
        is_stopped = are_stopped(found)
        if is_stopped and was_stopped:
            log.warning("the runtime of the processes %s is stopped, and is killed", sorted(found))
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        was_stopped = is_stopped
        timer = loop.call_later(LOOK_SECONDS, look)

    timer = loop.call_later(LOOK_SECONDS, look)
    try:
        yield
    finally:
        timer.cancel()


def are_stopped(pids: Collection[int]) -> bool:
    """Whether some of these processes live, and all that do are stopped."""
    living = {state for state in map(_state_of, pids) if state not in DEAD}
    return living == {STOPPED}


def _state_of(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "X"
    return text.rpartition(")")[2].split()[0]
