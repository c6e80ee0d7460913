"""A gateway of one's own, for a `with` block or until it is stopped: notebooks, tests and the demo.

It is the same program as `shardgate serve`, in a process of its own, on a free port. It must not outlive us, however we
end: it is asked to stop at the end of the block, by `stop()`, or when the interpreter exits, and the kernel ends it
when our process dies. To be exact, the kernel does so when the thread dies that started it, so a thread of its own
starts it, and waits. It is in a process group of its own: Ctrl-C, or a notebook's "interrupt", is meant for the cell.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from shardgate.client import Client
from shardgate.errors import EmbeddedGatewayError
from shardgate.extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

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


class EmbeddedGateway:
    """A gateway that runs until `stop()`, the end of its `with` block, or the end of this program.

    Attributes:
        client: Talks to it. A `with` block is given this.
    """

    def __init__(self, command: list[str], home: Path, output: Path, *, is_temporary: bool) -> None:
        self._owner = os.getpid()
        self._temporary = home if is_temporary else None
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)
        try:
            with output.open("ab") as file:
                begin = file.tell()
                self._process = _start(command, file)
            self.client = Client(_endpoint(self._process, output, begin))
        except BaseException:
            self.stop()
            raise

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"client={self.client!r}"
        return f"{type(self).__name__}({state})"

    def stop(self) -> None:
        """End it, and remove its temporary folder. A second call does nothing, nor does one in a forked process."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is not None:
            _stop(process)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Client:
        if self._process is None:
            raise EmbeddedGatewayError("this gateway was stopped", hint="call shardgate.embedded() again")
        return self.client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()


def embedded(
    buckets: Mapping[str, str | os.PathLike[str]],
    *,
    directory: str | os.PathLike[str] | None = None,
    workers: int = 1,
    options: Sequence[str] = (),
    log: str | os.PathLike[str] | None = None,
) -> EmbeddedGateway:
    """Start a gateway. Enter the object that this returns for its client, or use its `client` and `stop()`.

    Args:
        buckets: `{"gcp://sharded-imagenet": "./data"}`: bucket to location, as `serve --bucket` takes them.
        directory: Keeps cache, registry and packages; a temporary one by default, gone at the end.
        workers: Gateway processes.
        options: More flags of `shardgate serve`.
        log: File that gets what the gateway prints; one in `directory` by default.

    Raises:
        MissingExtra: The gateway is not installed.
        EmbeddedGatewayError: A bucket's folder is not there, or the gateway did not come up; the message holds what it
            printed.
    """
    require("gateway")
    for bucket, where in buckets.items():
        _check_folder(bucket, os.fspath(where))
    home = Path(directory or mkdtemp(prefix="shardgate-")).absolute()
    home.mkdir(parents=True, exist_ok=True)
    command = [*gateway_command(), "--port", "0", "--workers", str(workers)]
    command += ["--cache-dir", str(home / "cache"), "--state-dir", str(home / "state"), *options]
    for bucket, where in buckets.items():
        command += ["--bucket", f"{bucket}={os.fspath(where)}"]
    return EmbeddedGateway(command, home, Path(log or home / "gateway.log"), is_temporary=directory is None)


def gateway_command() -> list[str]:
    return [sys.executable, "-m", "shardgate_gateway"]


def _check_folder(bucket: str, where: str) -> None:
    """Raise EmbeddedGatewayError if a location is on this machine, and no folder is there."""
    if "://" in where and urlsplit(where).scheme != "file":
        return
    folder = Path(where.removeprefix("file://")).expanduser()
    if folder.is_dir():
        return
    if folder.exists():
        message = f"{folder.absolute()} is a file, and the bucket {bucket} needs a folder"
        raise EmbeddedGatewayError(message, hint="name the folder that the objects are in")
    message = f"the folder of the bucket {bucket} does not exist: {folder.absolute()}"
    raise EmbeddedGatewayError(message, hint="is its name right? An empty bucket needs an empty folder: make it first")


def _start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    guarded = [sys.executable, "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    started: Future[subprocess.Popen[bytes]] = Future()

    def own() -> None:
        try:
            process = subprocess.Popen(
                guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            started.set_exception(error)
        else:
            started.set_result(process)
            process.wait()

    threading.Thread(target=own, name="shardgate-embedded", daemon=True).start()
    return started.result()


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
