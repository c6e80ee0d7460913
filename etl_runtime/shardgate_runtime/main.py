"""The runtime's life as its gateway sees it: status, exit code, log."""

from __future__ import annotations

import logging
import os
import signal
import sys

from shardgate_runtime.failures import StartupError, describe, user_traceback
from shardgate_runtime.limits import die_with_parent
from shardgate_runtime.options import parse_options
from shardgate_runtime.rundir import RunDir


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(message)s", force=True
    )
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what user code prints belongs into the log at once
    if not options.stay:
        die_with_parent(options.parent or os.getppid(), signal.SIGTERM)
    try:
        run_dir = RunDir(options.run_dir)
    except StartupError as error:
        print(error.message, file=sys.stderr)
        return 1
    run_dir.write_status("starting")
    try:
        from shardgate_runtime.parent import Parent  # noqa: PLC0415 - imports torch, which takes seconds

        Parent(options, run_dir).run()
    except StartupError as error:
        print(error.message, error.hint, file=sys.stderr)
        run_dir.write_status("failed", error.message, error.hint)
        return 1
    except BaseException as error:
        run_dir.write_status("failed", f"an error in the runtime: {describe(error)}\n{user_traceback(error)}")
        raise
    run_dir.write_status("stopped")
    return 0
