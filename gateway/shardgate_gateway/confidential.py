"""What keeps a gateway process' credentials from other processes of the same user, as those that run user code are.

The kernel shows the environment with which a process was started as `/proc/PID/environ`. `hide` writes zeros over what
user code has no business with, once the process has copies elsewhere, and makes the process undumpable: then `/proc`
shows its environment, memory and descriptors to root alone, and it can't be traced. Programs that it starts are
dumpable again.

This is a fence, not a wall. Between its start and `hide` a process is readable; root reads anything; and a process of
the same user can send signals, and read the files of the cache and of the state folder. Code that nobody trusts belongs
into pods (`etl.runner = "kubernetes"`), or under a user of its own.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_DUMPABLE = 4


def hide(shown: Callable[[str], bool]) -> None:
    """Hide the variables of the environment for which `shown` is false, and this process' memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getenv.restype = ctypes.c_void_p
    for name, value in os.environb.items():
        if not shown(os.fsdecode(name)) and (first := libc.getenv(name)):
            os.environb[name] = value  # which is a copy of it, at another address
            if libc.getenv(name) != first:
                ctypes.memset(first, 0, len(value))
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
