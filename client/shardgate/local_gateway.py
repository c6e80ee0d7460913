"""A gateway of one's own, for as long as a `with` block lasts: notebooks, tests and the demo.

It is the same program as `shardgate serve`, in a process of its own, on a free port. It must not outlive us, however we
end: it is asked to stop at the end of the block, and the kernel ends it when our process dies (to be exact, the thread
that entered the block).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

from shardgate.client import Client
from shardgate.errors import EmbeddedGatewayError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LISTENING = "shardgate listening on "
"""How the gateway's line begins that tells its URL."""
STOP_SECONDS = 15.0
SHOWN_LINES = 30
POLL_SECONDS = 0.02
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes the command after arranging for its end; a `preexec_fn` would be unsafe beside threads."""


@contextmanager
def embedded(
    buckets: Mapping[str, str | os.PathLike[str]],
    *,
    directory: str | os.PathLike[str] | None = None,
    workers: int = 1,
    options: Sequence[str] = (),
    log: str | os.PathLike[str] | None = None,
) -> Iterator[Client]:
    """Run a gateway and yield its client.

    Args:
        buckets: `{"gcp://sharded-imagenet": "./data"}`: bucket to location, as `serve --bucket` takes them.
        directory: Keeps cache, registry and packages; a temporary one by default, gone at the end.
        workers: Gateway processes.
        options: More flags of `shardgate serve`.
        log: File that gets what the gateway prints; one in `directory` by default.

    Raises:
        MissingExtra: The gateway is not installed.
        EmbeddedGatewayError: It did not come up; the message holds what it printed.
    """
    require_gateway()
    with ExitStack() as stack:
        home = Path(directory or stack.enter_context(TemporaryDirectory(prefix="shardgate-"))).absolute()
        home.mkdir(parents=True, exist_ok=True)
        command = [*gateway_command(), "--port", "0", "--workers", str(workers)]
        command += ["--cache-dir", str(home / "cache"), "--state-dir", str(home / "state"), *options]
        for bucket, where in buckets.items():
            command += ["--bucket", f"{bucket}={os.fspath(where)}"]
        output = Path(log or home / "gateway.log")
        with output.open("ab") as file:
            begin = file.tell()
            process = _start(command, file, stack)
        with Client(_endpoint(process, output, begin)) as client:
            yield client


def gateway_command() -> list[str]:
    return [sys.executable, "-m", "shardgate_gateway"]


def require_gateway() -> None:
    """Raise MissingExtra unless the gateway and what it stands on are installed."""
    for module in ("aiohttp", "shardgate_gateway"):
        if find_spec(module) is None:
            raise MissingExtra(module, "gateway")


def _start(command: list[str], output: IO[bytes], stack: ExitStack) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    process = subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _endpoint(process: subprocess.Popen[bytes], output: Path, begin: int) -> str:
    """Wait for the line that tells the URL.

    Raises:
        EmbeddedGatewayError: The gateway ended instead.
    """
    while True:
        ended = process.poll()
        printed = output.read_bytes()[begin:].decode(errors="replace")
        for line in printed.splitlines(keepends=True):
            if line.startswith(LISTENING) and line.endswith("\n"):
                return line.removeprefix(LISTENING).split()[0]
        if ended is not None:
            last = "\n".join(printed.splitlines()[-SHOWN_LINES:])
            raise EmbeddedGatewayError(f"the gateway ended with status {ended} before it listened:\n{last}")
        time.sleep(POLL_SECONDS)
