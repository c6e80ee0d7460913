"""How a runtime is, over HTTP: /healthz, /readyz, /status and /metrics, for kubelets and people.

The parent answers by itself, between two turns of its loop. So an answer is the proof that the loop turns, and there is
no thread that a fork could catch with a lock in its hands, and no process more. The kernel wakes the loop by SIGIO when
somebody connects, as it does by SIGCHLD when a worker dies. Who asks has half a second to say what; whoever is slower
gets nothing, for the loop has others to look after.

While the package loads nobody answers: connections are refused, and the pod's startup probe says how long that may be.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from shardgate.wire import paths
from shardgate_runtime.clock import clock
from shardgate_runtime.failures import StartupError
from shardgate_runtime.scoreboard import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardgate_runtime.scoreboard import Slot

ASK_SECONDS = 0.5
MAX_REQUEST = 8 << 10
BACKLOG = 16
TEXT, JSON, METRICS = "text/plain; charset=utf-8", "application/json", "text/plain; version=0.0.4"


@dataclass(frozen=True)
class View:
    """What there is to tell."""

    transform_id: str
    slots: Sequence[Slot]
    draining: bool
    deaths: int
    started: float

    @property
    def ready(self) -> bool:
        """Whether jobs are taken, or will be when the running ones have ended."""
        return not self.draining and any(slot.state()[1] in {State.IDLE, State.BUSY} for slot in self.slots)

    @property
    def state(self) -> str:
        return "draining" if self.draining else "ready" if self.ready else "starting"

    def as_map(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "transform_id": self.transform_id,
            "pid": os.getpid(),
            "uptime_seconds": clock.monotonic() - self.started,
            "deaths": self.deaths,
            "workers": [_worker(slot) for slot in self.slots],
        }

    def as_metrics(self) -> str:
        count = Counter(slot.state()[1] for slot in self.slots)
        lines = ["# HELP shardgate_runtime_workers Workers by what they do.", "# TYPE shardgate_runtime_workers gauge"]
        lines += [f'shardgate_runtime_workers{{state="{state.name.lower()}"}} {count[state]}' for state in State]
        lines += [
            "# HELP shardgate_runtime_worker_deaths_total Workers that died in the middle of a job.",
            "# TYPE shardgate_runtime_worker_deaths_total counter",
            f"shardgate_runtime_worker_deaths_total {self.deaths}",
        ]
        return "\n".join(lines) + "\n"


def _worker(slot: Slot) -> dict[str, Any]:
    pid, state, since = slot.state()
    sample, _, key = slot.sample()
    busy = {"request": slot.request(), "sample": sample, "key": key} if state is State.BUSY else {}
    return {"pid": pid, "state": state.name.lower(), "seconds": clock.monotonic() - since, **busy}


class StatusPort:
    """The listening socket. Its owner has SIGIO blocked, and waits for it.

    Args:
        host: Interface to listen on.
        port: 0 takes a free one.

    Raises:
        StartupError: The port is taken.
    """

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise StartupError(f"can't listen on {host}:{port} for the status: {error}") from error
        self.port: int = self._listener.getsockname()[1]
        fcntl.fcntl(self._listener, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._listener, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    def close(self) -> None:
        self._listener.close()

    def answer(self, view: View) -> None:
        """Answer whoever has connected."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # nobody is there, or left again; or no descriptor is free, and the next turn may have one
                return
            with sock:
                _converse(sock, view)


def _converse(sock: socket.socket, view: View) -> None:
    deadline = clock.monotonic() + ASK_SECONDS
    request = b""
    try:
        while b"\r\n\r\n" not in request:
            sock.settimeout(max(deadline - clock.monotonic(), 0.001))
            data = sock.recv(MAX_REQUEST)
            request += data
            if not data or len(request) > MAX_REQUEST:
                return
        sock.sendall(_respond(request, view))
    except OSError:
        return


def _respond(request: bytes, view: View) -> bytes:
    method, _, rest = request.partition(b" ")
    status, kind, body = _find(rest.split(b" ", 1)[0].split(b"?", 1)[0].decode("latin-1"), view)
    if method not in {b"GET", b"HEAD"}:
        status, kind, body = HTTPStatus.METHOD_NOT_ALLOWED, TEXT, "only GET\n"
    data = body.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else data)


def _find(path: str, view: View) -> tuple[HTTPStatus, str, str]:
    if path == paths.ALIVE:
        return HTTPStatus.OK, TEXT, "ok\n"
    if path == paths.READY:
        return (HTTPStatus.OK if view.ready else HTTPStatus.SERVICE_UNAVAILABLE), TEXT, f"{view.state}\n"
    if path == "/status":
        return HTTPStatus.OK, JSON, json.dumps(view.as_map())
    if path == "/metrics":
        return HTTPStatus.OK, METRICS, view.as_metrics()
    return HTTPStatus.NOT_FOUND, TEXT, "there are /healthz, /readyz, /status and /metrics\n"
