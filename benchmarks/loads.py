"""Readers that cost next to nothing, so that what is measured is the server.

A body is discarded inside the kernel (`MSG_TRUNC` on a TCP socket: the bytes are counted and thrown away), so a reader
neither copies nor looks at them. Framing is still checked: a body that is short of its Content-Length, or a chunked
body without its last chunk, raises. Whether the bytes are the right ones is what the tests of the gateway are for.

`wrk` loads small objects, because a reader written in Python would be slower than the servers.
"""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

T = TypeVar("T")
WINDOW = 4 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """One GET: bytes of the body, and seconds from sending the request to the first byte, the mark, and the end."""

    size: int
    first_byte: float
    mark: float
    seconds: float


class Reader:
    """One keep-alive connection; drains what it asks for. `token`: that it shows, if any."""

    def __init__(self, url: str, *, timeout: float = 120, token: str = "") -> None:
        parts = urlsplit(url)
        self._headers = f"Host: {parts.netloc}\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._window = bytearray(WINDOW)
        self._pending = b""
        self._read = 0
        self._mark = (0, 0.0)
        self._start = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def get(self, target: str, *, mark: int = 1) -> Fetched:
        """GET a path (with query) and drain the body; `mark` is the number of body bytes whose arrival is timed.

        Raises:
            RuntimeError: Any status but 200 and 206.
            ConnectionError: The body ended before its end.
        """
        self._read, self._mark, first_byte = 0, (mark, 0.0), 0.0
        self._start = time.perf_counter()
        self._socket.sendall(f"GET {target} HTTP/1.1\r\n{self._headers}\r\n".encode())
        status, headers = self._head()
        if status not in {200, 206}:
            raise RuntimeError(f"GET {target}: {status} {self._pending[:1000]!r}")
        if not self._pending:
            self._fill(1)
        first_byte = time.perf_counter() - self._start
        if "chunked" in headers.get("transfer-encoding", ""):
            self._drain_chunks()
        else:
            self._drain(int(headers["content-length"]))
        return Fetched(self._read, first_byte, self._mark[1], time.perf_counter() - self._start)

    def _head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._pending:
            self._fill(len(self._pending) + 1)
        head, self._pending = self._pending.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip().lower() for name, value in pairs}

    def _fill(self, least: int) -> None:
        while len(self._pending) < least:
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionError("the connection was closed before the end of the response")
            self._pending += data

    def _drain(self, count: int) -> None:
        taken = min(count, len(self._pending))
        self._pending = self._pending[taken:]
        self._count(taken)
        left = count - taken
        while left:
            got = self._socket.recv_into(self._window, min(left, WINDOW), socket.MSG_TRUNC)
            if not got:
                raise ConnectionError(f"the body ended {left} bytes short")
            left -= got
            self._count(got)

    def _drain_chunks(self) -> None:
        size = -1
        while size:
            while b"\r\n" not in self._pending:
                self._fill(len(self._pending) + 1)
            line, self._pending = self._pending.split(b"\r\n", 1)
            size = int(line.split(b";")[0], 16)
            self._drain(size)
            self._fill(2)
            self._pending = self._pending[2:]

    def _count(self, count: int) -> None:
        self._read += count
        mark, seen = self._mark
        if not seen and self._read >= mark:
            self._mark = (mark, time.perf_counter() - self._start)


def fetch(url: str, *, mark: int = 1, token: str = "") -> Fetched:
    """One GET on a connection of its own; connecting is not timed."""
    parts = urlsplit(url)
    with Reader(url, token=token) as reader:
        return reader.get(f"{parts.path}?{parts.query}" if parts.query else parts.path, mark=mark)


def together(jobs: Iterable[Callable[[], T]]) -> list[T]:
    """Run all at once, a thread each."""
    every = list(jobs)
    with ThreadPoolExecutor(len(every)) as pool:
        return [future.result() for future in [pool.submit(job) for job in every]]


def drain_many(url: str, *, gets: int, connections: int) -> int:
    """GET `url` `gets` times over `connections` keep-alive connections; returns the bytes read."""
    target = urlsplit(url).path

    def run(count: int) -> int:
        with Reader(url) as reader:
            return sum(reader.get(target).size for _ in range(count))

    shares = [gets // connections + (number < gets % connections) for number in range(connections)]
    return sum(together([partial(run, share) for share in shares if share]))


@dataclass(frozen=True, slots=True)
class Small:
    """What wrk saw."""

    requests: int
    per_second: float


def wrk(url: str, *, seconds: int, connections: int) -> Small:
    """Load `url` with keep-alive connections from one thread; raises RuntimeError on any error response."""
    tool = shutil.which("wrk")
    if tool is None:
        raise RuntimeError("wrk is not on PATH; it loads the small objects (Debian package `wrk`)")
    command = [tool, "-t", "1", "-c", str(connections), "-d", f"{seconds}s", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"{url} answered with errors under load:\n{text}")
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if requests is None or rate is None:
        raise RuntimeError(f"wrk printed no result:\n{text}")
    return Small(int(requests[1]), float(rate[1]))


class SlowReaders:
    """Many connections that each ask for a body and then take a little of it now and then."""

    def __init__(self, urls: Sequence[str], *, take: int = 4096, pause: float = 0.25) -> None:
        self._take, self._pause = take, pause
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        for url in urls:
            self._selector.register(self._ask(url), selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @staticmethod
    def _ask(url: str) -> socket.socket:
        parts = urlsplit(url)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        connection.connect((parts.hostname, parts.port or 80))
        query = f"?{parts.query}" if parts.query else ""
        connection.sendall(f"GET {parts.path}{query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        return connection

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._close(key.fileobj)
        self._selector.close()

    def wait_until_gone(self, *, seconds: float) -> None:
        """Wait until every body came to its end; TimeoutError if that takes longer."""
        deadline = time.monotonic() + seconds
        while self._selector.get_map():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._selector.get_map())} readers are still reading")
            time.sleep(self._pause)

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            for key, _ in self._selector.select(0):
                if not key.fileobj.recv(self._take):  # type: ignore[union-attr]
                    self._close(key.fileobj)

    def _close(self, connection: object) -> None:
        assert isinstance(connection, socket.socket)
        self._selector.unregister(connection)
        connection.close()
