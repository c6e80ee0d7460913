"""A whole gateway as its operator starts it: `python -m shardgate_gateway`, its workers and the runtimes below them.

with running_gateway(tmp_path, {"gcp://shards": folder}, workers=2, settings={"upstream.attempts": 2}) as gateway:
    gateway.url("gcp://shards", "a.tar")
    os.kill(gateway.workers()[0], signal.SIGKILL)
    gateway.kill()     # SIGKILL to every process of it
    gateway.start()    # again, on the same port and folders

The kernel kills it when the test process dies. Leaving the block stops it, and fails if a process of it is left or its
log has a traceback: whatever a test does to a gateway from outside, an unexpected exception is a bug.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from servers import free_port, spawn, stop
from shardgate import Client

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

WITHOUT_TORCH = Path(__file__).with_name("without_torch")
LISTENING = "shardgate listening on "
MODULES = ("shardgate_gateway", "shardgate_gateway.app", "shardgate_runtime")
START_SECONDS = 60
WAIT_SECONDS = 30


def eventually(condition: Callable[[], Any], *, seconds: float = WAIT_SECONDS, what: str = "the condition") -> Any:
    """The first true answer of `condition`; a hang of the thing under test fails here, not at the test's own limit."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} seconds")
        time.sleep(0.02)
    return answer


class GatewayProcess:
    """One gateway. `start` it; `stop`, `kill` and `start` again as often as you like.

    Args:
        folder: Keeps cache, state and log over restarts.
        buckets: `PROVIDER://NAME` to a location, or to all settings of the bucket.
        workers: Gateway processes.
        settings: `{"group.field": value}`.
        limits: `{"RLIMIT": value}` of `prlimit`, like `{"nofile": 200}`.
        torch: Transforms need it; else it is hidden, because importing it takes a runtime seconds.
    """

    def __init__(
        self,
        folder: Path,
        buckets: Mapping[str, str | Path | Mapping[str, Any]],
        *,
        workers: int = 1,
        settings: Mapping[str, Any] | None = None,
        limits: Mapping[str, int] | None = None,
        torch: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cache = folder / "cache"
        self.state = folder / "state"
        self.log = folder / "gateway.log"
        self.port = free_port()
        self.settings = {
            "serve.port": self.port,
            "serve.workers": workers,
            "cache.dir": str(self.cache),
            "state.dir": str(self.state),
            **(settings or {}),
        }
        self.buckets = {
            name: {"where": str(where)} if isinstance(where, str | Path) else dict(where)
            for name, where in buckets.items()
        }
        self._limits = [f"--{name}={value}" for name, value in (limits or {}).items()]
        self._path = {} if torch else {"PYTHONPATH": str(WITHOUT_TORCH)}
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[int] = set()
        self._said_before = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.endpoint)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def url(self, bucket: str, key: str, **query: Any) -> str:
        return self.client.object_url(bucket, key) + ("&" + urlencode(query) if query else "")

    def start(self) -> GatewayProcess:
        """Start it and wait until it listens."""
        self.launch()
        return self.wait()

    def launch(self) -> None:
        """Start it, without waiting: several gateways come up faster side by side."""
        self._said_before = self.said.count(LISTENING)
        command = [sys.executable, "-m", "shardgate_gateway"]
        if self._limits:
            command = ["prlimit", *self._limits, "--", *command]
        self._process = spawn(command, self.log, self._environment())

    def wait(self) -> GatewayProcess:
        """Wait until what was launched listens."""
        process = self._process
        assert process is not None
        eventually(
            lambda: process.poll() is not None or self.said.count(LISTENING) > self._said_before,
            seconds=START_SECONDS,
            what="the line that says where the gateway listens",
        )
        if process.returncode is not None:
            raise AssertionError(f"the gateway ended with {process.returncode}: {self.said[-4000:]}")
        return self

    def stop(self) -> int:
        """SIGTERM, as an operator would; returns the exit status."""
        assert self._process is not None
        self._remember()
        stop(self._process)
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL the supervisor, then all processes below it, before any of them can react."""
        assert self._process is not None
        doomed = self.tree()
        for pid in doomed:
            _kill(pid)
        self._process.wait()
        eventually(lambda: not any(map(alive, doomed)), what="the end of killed processes")

    def tree(self) -> list[int]:
        """All processes, parents before children."""
        assert self._process is not None
        found = [self._process.pid]
        for pid in found:
            found += _children(pid)
        return found

    def workers(self) -> list[int]:
        """Processes that answer HTTP."""
        return [pid for pid in self.tree() if _is(pid, "shardgate_gateway.app")]

    def filler(self) -> int | None:
        """The process that holds the lock of a fill, if one is going on."""
        inodes = {str(path.stat().st_ino) for path in (self.cache / "fills").iterdir() if "." not in path.name}
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] in inodes:
                return int(fields[4])
        return None

    def worker_of(self, port: int) -> int:
        """The process that answers the connection that comes from this port of ours."""
        inode = next(
            fields[9]
            for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
            if fields[1].endswith(f":{self.port:04X}") and fields[2].endswith(f":{port:04X}")
        )
        return next(pid for pid in self.workers() if _holds(pid, f"socket:[{inode}]"))

    def runtimes(self) -> list[int]:
        """Parents of ETL workers."""
        return [pid for worker in self.workers() for pid in _children(worker) if _is(pid, "shardgate_runtime")]

    def etl_workers(self) -> list[int]:
        """Processes that run user code."""
        return [pid for parent in self.runtimes() for pid in _children(parent)]

    def memory(self) -> int:
        """Peak resident bytes of the process that used most, of those that answer HTTP."""
        return max(_peak_memory(pid) for pid in self.workers() or self.tree()[:1])

    def left_over(self) -> list[int]:
        """Processes that were seen below this gateway and still live."""
        return [pid for pid in self._known if alive(pid) and any(_is(pid, module) for module in MODULES)]

    def _remember(self) -> None:
        self._known.update(self.tree())

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        eventually(lambda: not self.left_over(), what=f"the end of processes {self.left_over()}")

    def _environment(self) -> dict[str, str]:
        variables = {
            "SHARDGATE_{}__{}".format(*name.upper().split(".")): str(value) for name, value in self.settings.items()
        }
        return {**variables, **self._path, "SHARDGATE_BUCKETS": json.dumps(self.buckets), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running_gateway(
    folder: Path, buckets: Mapping[str, str | Path | Mapping[str, Any]], *, tracebacks: bool = False, **options: Any
) -> Iterator[GatewayProcess]:
    """A started gateway. `tracebacks`: the test provokes exceptions that the log rightly shows."""
    gateway = GatewayProcess(folder, buckets, **options)
    try:
        yield gateway.start()
        before, found, after = gateway.said.partition("Traceback (most recent call last)")
        assert tracebacks or not found, before[-1000:] + found + after[:7000]
    finally:
        gateway.close()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def _children(pid: int) -> list[int]:
    """Children of all threads of a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, path.read_text().split())
    return [child for child in found if alive(child)]


def _is(pid: int, module: str) -> bool:
    """Whether a process runs this module by `python -m`; forked children look like their parent."""
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _holds(pid: int, target: str) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(path.readlink()) == target:
                    return True
    return False


def _peak_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
