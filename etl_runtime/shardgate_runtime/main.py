"""The command line of the runtime: `python -m shardgate_runtime --package FILE --transform-id ID ...`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from shardgate_runtime.failures import StartupError, describe, user_traceback
from shardgate_runtime.limits import die_with_parent
from shardgate_runtime.parent import Options, Parent
from shardgate_runtime.rundir import RunDir


def parse_options(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="shardgate_runtime", description="Run one transform in worker processes.")
    add = parser.add_argument
    add("--package", type=Path, required=True, help="file with the transform's package")
    add("--transform-id", required=True, help="the package's id; a package with another one is refused")
    add("--listen", required=True, help="unix:PATH or tcp:HOST:PORT")
    add("--run-dir", type=Path, required=True, help="folder for status.json and the lock")
    add("--workers", type=int, required=True, help="worker processes")
    add("--memory-bytes", type=int, default=0, help="bytes a worker may allocate once loaded; 0 is no limit")
    add("--ring-bytes", type=int, default=Options.ring_bytes, help="bytes of shared memory per worker; 0 is none")
    add("--idle-seconds", type=float, default=0, help="seconds without a job after which to exit; 0 is never")
    add("--stay", action="store_true", help="live on when the parent process dies")
    return Options(**vars(parser.parse_args(arguments)))


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(message)s", force=True
    )
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what user code prints belongs into the log at once
    if not options.stay:
        die_with_parent(os.getppid(), signal.SIGTERM)
    try:
        run_dir = RunDir(options.run_dir)
    except StartupError as error:
        print(error.message, file=sys.stderr)
        return 1
    run_dir.write_status("starting")
    try:
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
