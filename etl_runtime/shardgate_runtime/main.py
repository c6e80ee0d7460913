"""The runtime's life as its gateway sees it: status, exit code, log.

Exit codes are those of sysexits.h, for whoever starts runtimes and wonders whether to start this one again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from shardgate import extras
from shardgate_runtime.failures import StartupError, describe, user_traceback
from shardgate_runtime.fetch import fetch
from shardgate_runtime.limits import die_with_parent
from shardgate_runtime.options import parse_options
from shardgate_runtime.orphans import adopt_orphans, kill_all_orphans
from shardgate_runtime.rundir import RunDir
from shardgate_runtime.site_folder import unpack, use
from shardgate_runtime.termination import write_reason

if TYPE_CHECKING:
    from shardgate_runtime.options import Options


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(message)s", force=True
    )
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what user code prints belongs into the log at once
    if not options.stay:
        die_with_parent(options.parent or os.getppid(), signal.SIGTERM)
    adopt_orphans()
    try:
        run_dir = RunDir(options.run_dir)
    except StartupError as error:
        print(error.message, file=sys.stderr)
        return os.EX_TEMPFAIL
    try:
        return _run(options, run_dir)
    finally:
        kill_all_orphans()


def _run(options: Options, run_dir: RunDir) -> int:
    run_dir.write_status("starting")
    try:
        _gather(options)
        _check_installed()
        from shardgate_runtime.parent import Parent  # noqa: PLC0415 - imports what the environment may replace

        Parent(options, run_dir).run()
    except StartupError as error:
        print(error.message, error.hint, file=sys.stderr)
        run_dir.write_status("failed", error.message, error.hint)
        write_reason(options.termination_log, error.message, error.hint)
        return os.EX_TEMPFAIL if error.transient else os.EX_CONFIG
    except BaseException as error:
        message = f"an error in the runtime: {describe(error)}\n{user_traceback(error)}"
        run_dir.write_status("failed", message)
        write_reason(options.termination_log, message, "this is a bug in shardgate")
        raise
    run_dir.write_status("stopped")
    return os.EX_OK


def _check_installed() -> None:
    """Raise StartupError if what the runtime itself needs is not here: a gateway can be installed without it."""
    if module := extras.missing("runtime"):
        raise StartupError(
            f"a Python transform needs {module}, which is not installed where the workers run",
            "pip install 'shardgate[runtime]' beside the gateway; a gateway alone reads, and runs containers",
        )


def _gather(options: Options) -> None:
    """Get what is elsewhere."""
    if options.package_url:
        fetch("the package", options.package_url, options.token_file, options.package)
    if options.environment_url:
        archive = options.run_dir / "environment.tar.gz"
        fetch("the environment", options.environment_url, options.token_file, archive)
        unpack(archive, options.run_dir / "environment")
        use(options.run_dir / "environment")
