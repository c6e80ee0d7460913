"""A web server that lies, stalls and breaks off on demand, and counts what it was asked for.

Faults are queued per object and used up one a GET, so that a test says exactly which request meets which failure:

    with FaultyOrigin() as origin:
        origin.put("a.tar", data, etag="v1")
        origin.fail("a.tar", Fault(after=1000, ending="reset"))      # the first GET breaks, the second is good
        origin.fail("a.tar", Fault(status=503, headers={"Retry-After": "1"}), times=5)

Nothing here depends on time: a stalled body waits until `release()` or until the origin is closed. It answers GET,
HEAD, ranges and If-Match like S3 does, so an S3 client with `skip_signature` reads from it as well.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

PIECE = 64 << 10
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends RST."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one GET; the default goes well.

    Attributes:
        after: Body bytes sent before `ending` comes; None sends all of them.
        ending: `close` the connection orderly, `reset` it, or `stall` until `release()` and then go on.
        status: Answer this instead of the object.
        headers: Added to the answer, or replacing its own; None leaves one out.
        chunked: Send the body chunked, without a Content-Length; with `after` its last chunk is never sent.
        ignore_range: 200 and the whole object, whatever was asked.
        body: Sent in place of the object's bytes; headers still speak of the object.
        before: `stall` before the answer's first byte, until `release()`.
        then: Called after the headers and `after` bytes were sent, before `ending`: to overwrite the object, say.
    """

    after: int | None = None
    ending: Literal["close", "reset", "stall"] = "close"
    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    chunked: bool = False
    ignore_range: bool = False
    body: bytes | None = None
    before: Literal["", "stall"] = ""
    then: Callable[[], None] | None = None


@dataclass(frozen=True)
class Version:
    data: bytes
    etag: str
    modified: float


@dataclass
class Asked:
    """One request as it came: `sent` counts the body bytes that went out."""

    method: str
    key: str
    headers: dict[str, str]
    sent: int = 0
    target: str = ""


class FaultyOrigin:
    """An HTTP server in threads of this process. Use it as a context manager."""

    def __init__(self) -> None:
        self.objects: dict[str, Version] = {}
        self.requests: list[Asked] = []
        self.refuse_head = False
        self.head = Fault()
        """What goes wrong with every HEAD."""
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.origin = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, key: str, data: bytes, *, etag: str = "v1", modified: float = 1_700_000_000) -> None:
        """Store a version, also while an older one is being sent. An empty etag is left out of the answers."""
        self.objects[key] = Version(data, etag, modified)

    def fail(self, key: str, fault: Fault, *, times: int = 1) -> None:
        with self._lock:
            self._faults[key].extend([fault] * times)

    def heal(self, key: str) -> None:
        """Forget the faults that are still queued, and let bodies that are stalled now go on."""
        with self._lock:
            self._faults[key].clear()
            released, self._released = self._released, threading.Event()
        released.set()

    def next_fault(self, key: str) -> Fault:
        with self._lock:
            return self._faults[key].popleft() if self._faults[key] else Fault()

    def release(self) -> None:
        """Let stalled bodies go on, now and later."""
        self._released.set()

    def wait_released(self) -> None:
        self._released.wait()

    def gets(self, key: str) -> list[Asked]:
        return [asked for asked in self.requests if asked.method == "GET" and asked.key == key]

    def bytes_sent(self, key: str) -> int:
        return sum(asked.sent for asked in self.gets(key))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    origin: FaultyOrigin

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news here."""

    def shutdown_request(self, request: Any) -> None:
        """The base class would say goodbye (FIN) first, and a reset says none."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(RESET)) == RESET:
            self.close_request(request)
        else:
            super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Tests read `requests`, not a log."""

    def do_HEAD(self) -> None:
        self._answer(Fault(status=405) if self.server.origin.refuse_head else self.server.origin.head)

    def do_GET(self) -> None:
        self._answer(self.server.origin.next_fault(self._key()))

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, fault: Fault) -> None:
        asked = Asked(self.command, self._key(), dict(self.headers.items()), target=self.path)
        self.server.origin.requests.append(asked)
        version = self.server.origin.objects.get(asked.key)
        if fault.before:
            self.server.origin.wait_released()
        if fault.status is not None:
            self._refuse(fault.status, fault.headers)
        elif version is None:
            self._refuse(404, {})
        elif (wanted := self.headers.get("If-Match")) and wanted.strip('"') != version.etag:
            self._refuse(412, {})
        else:
            self._send(version, fault, asked)

    def _refuse(self, status: int, headers: dict[str, str | None]) -> None:
        self._head(status, {"Content-Length": "0", **headers})

    def _send(self, version: Version, fault: Fault, asked: Asked) -> None:
        size = len(version.data)
        span = None if fault.ignore_range else _parse_range(self.headers.get("Range"), size)
        start, end = span or (0, size)
        if span and start >= size:
            self._refuse(416, {"Content-Range": f"bytes */{size}"})
            return
        headers: dict[str, str | None] = {
            "Content-Type": "application/octet-stream",
            "Last-Modified": formatdate(version.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "ETag": f'"{version.etag}"' if version.etag else None,
            "Content-Range": f"bytes {start}-{end - 1}/{size}" if span else None,
            "Content-Length": None if fault.chunked else str(end - start),
            "Transfer-Encoding": "chunked" if fault.chunked else None,
        }
        self._head(206 if span else 200, {**headers, **fault.headers})
        if self.command == "GET":
            self._body(fault.body if fault.body is not None else version.data[start:end], fault, asked)

    def _head(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def _body(self, data: bytes, fault: Fault, asked: Asked) -> None:
        cut = len(data) if fault.after is None else fault.after
        self._pieces(data[:cut], fault, asked)
        if fault.then:
            fault.then()
        if fault.after is not None:
            if fault.ending != "stall":
                self._break_off(reset=fault.ending == "reset")
                return
            self.server.origin.wait_released()
            self._pieces(data[cut:], fault, asked)
        if fault.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _pieces(self, data: bytes, fault: Fault, asked: Asked) -> None:
        for offset in range(0, len(data), PIECE):
            piece = data[offset : offset + PIECE]
            asked.sent += len(piece)  # before the reader can know, so that a test may count right after reading
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)

    def _break_off(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """One `bytes=a-b`, `bytes=a-` or `bytes=-n`, as half-open span; all our clients send."""
    if not header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size
