"""A gateway of one's own, for as long as a `with` block lasts: notebooks, tests and the demo.

It is the same program as `shardgate serve`, in a process of its own, on a free port. It must not outlive us, however we
end: it is asked to stop at the end of the block, and the kernel ends it when our process dies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO, TYPE_CHECKING

from shardgate.client import Client
from shardgate.errors import EmbeddedGatewayError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LISTENING = "shardgate listening on "
"""How the gateway's line begins that tells its URL."""
STOP_SECONDS = 15.0
KEPT_LINES = 60
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
        log: File that gets what the gateway prints.

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
        process = _start(command, stack)
        output = _Output(process, stack.enter_context(Path(log).open("a")) if log else None)
        with Client(output.endpoint()) as client:
            yield client


def gateway_command() -> list[str]:
    return [sys.executable, "-m", "shardgate_gateway"]


def require_gateway() -> None:
    """Raise MissingExtra unless the gateway and what it stands on are installed."""
    for module in ("aiohttp", "shardgate_gateway"):
        if find_spec(module) is None:
            raise MissingExtra(module, "gateway")


def _start(command: list[str], stack: ExitStack) -> subprocess.Popen[str]:
    guarded = [sys.executable, "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    process = subprocess.Popen(guarded, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


class _Output:
    """What the gateway prints: its URL, and its last lines for messages; read to the end, so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str] | None) -> None:
        self._process = process
        self._log = log
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)

    def endpoint(self) -> str:
        """Wait for the line that tells the URL.

        Raises:
            EmbeddedGatewayError: The gateway ended instead.
        """
        for line in self._read():
            if line.startswith(LISTENING):
                Thread(target=deque, args=(self._read(), 0), daemon=True).start()
                return line.removeprefix(LISTENING).split()[0]
        code = self._process.wait()
        raise EmbeddedGatewayError(f"the gateway ended with status {code} before it listened:\n" + "".join(self._lines))

    def _read(self) -> Iterator[str]:
        for line in self._process.stdout or ():
            self._lines.append(line)
            if self._log:
                self._log.write(line)
                self._log.flush()
            yield line
