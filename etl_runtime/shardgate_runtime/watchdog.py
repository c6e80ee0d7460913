"""Which workers do not come back.

A sample has a limit of time. Between two samples a worker may rightly wait without end, for a reader that pauses, and
it has nothing to compute but tar headers. So there the limit is one of computing: the processor seconds of the worker's
main thread since it last showed a sign of life. A shard that is made to be slow to parse is found by that.

A worker that somebody has stopped (SIGSTOP) serves nobody, and no other clock sees it: it neither computes nor dies.

A worker may move on between a look at it and its end, and then another sample would be blamed. So it is stopped first,
looked at once more, and goes on if it has moved.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_runtime.clock import clock
from shardgate_runtime.orphans import stat_of
from shardgate_runtime.scoreboard import State

if TYPE_CHECKING:
    from shardgate_runtime.scoreboard import Slot

GRACE_SECONDS = 1.0
"""Between a sample's own timeout and its worker being killed."""
BETWEEN_SECONDS = 10.0
"""Processor time between samples, at least: reading the largest sample that is allowed takes about two seconds."""
STOP_SECONDS = 1.0
"""Until a worker has stopped for a look. One that hangs in the kernel does not, and does not move either."""
POLL_SECONDS = 0.001
STOPPED_SECONDS = 10.0
"""For a worker that was stopped to go on. Whoever looks at one with a debugger traces it, which is another state."""
STOPPED = "it was stopped, and did not go on"
TICKS = os.sysconf("SC_CLK_TCK")


class Watchdog:
    """Watches the worker of one slot.

    Args:
        slot: What the worker says of itself.
        timeout: Seconds for one sample; 0 is no limit.
    """

    def __init__(self, slot: Slot, timeout: float) -> None:
        self._slot = slot
        self._timeout = timeout
        self._sign: tuple[float, float] = (0.0, 0.0)
        self._computed = 0.0
        self._stopped_at = 0.0

    def kill_if_overdue(self, pid: int) -> str:
        """Kill a worker that does not come back; the reason, or "" where it lives on."""
        if self._is_stopped_for_good(pid):
            os.kill(pid, signal.SIGKILL)
            return STOPPED
        sign = self._slot.sign_of_life()
        if not (verdict := self._judge(pid, sign)):
            return ""
        os.kill(pid, signal.SIGSTOP)
        _await_stop(pid)
        moved = self._slot.sign_of_life() != sign
        os.kill(pid, signal.SIGCONT if moved else signal.SIGKILL)
        return "" if moved else verdict

    def _is_stopped_for_good(self, pid: int) -> bool:
        if not _is_stopped(pid):
            self._stopped_at = 0.0
            return False
        self._stopped_at = self._stopped_at or clock.monotonic()
        return clock.monotonic() - self._stopped_at > STOPPED_SECONDS

    def _judge(self, pid: int, sign: tuple[float, float]) -> str:
        if not self._timeout:
            return ""
        _, began, _ = self._slot.sample()
        if began:
            late = clock.monotonic() - began > self._timeout + GRACE_SECONDS
            return f"sample timeout after {self._timeout:g} s" if late else ""
        if self._slot.state()[1] is not State.BUSY:
            return ""
        computed = _processor_seconds(pid)
        if sign != self._sign:
            self._sign, self._computed = sign, computed
        limit = max(self._timeout, BETWEEN_SECONDS)
        return f"computed for {limit:g} s between two samples" if computed - self._computed > limit else ""


def _is_stopped(pid: int) -> bool:
    with suppress(OSError):
        return stat_of(pid)[0] == "T"
    return False


def _processor_seconds(pid: int) -> float:
    """Of the main thread alone: user code may have others, which are not between samples."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS
    return 0.0


def _await_stop(pid: int) -> None:
    deadline = clock.monotonic() + STOP_SECONDS
    how = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
    while os.waitid(os.P_PID, pid, how) is None and clock.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
