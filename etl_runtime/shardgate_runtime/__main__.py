"""Start the runtime, in a Python whose environment suits it.

Hash randomisation and the thread pools of native libraries are settled when a process starts, so where the environment
is not as it should be, the process starts itself once more, with the same pid.
"""

from __future__ import annotations

import os
import sys

from shardgate_runtime.limits import ENVIRONMENT

if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
    os.environ.update(ENVIRONMENT)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted

from shardgate_runtime.main import main

sys.exit(main(sys.argv[1:]))
