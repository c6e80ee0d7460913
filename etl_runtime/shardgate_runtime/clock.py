"""The clocks of the system, which user code can't replace.

Functions and their libraries put other clocks into the module `time`, and into every module that has one of it, to
freeze the time or to move it. A watchdog that believed them would kill workers that are fine, or none. So they stand in
a class, where nobody looks for them.
"""

from __future__ import annotations

import time


class clock:  # noqa: N801 (it is used as a module would be)
    monotonic = staticmethod(time.monotonic)
    perf_counter = staticmethod(time.perf_counter)
