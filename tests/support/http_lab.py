"""A small web server whose answers a test decides: a stand-in for a gateway that a runtime fetches things from."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Web:
    """Attributes: files: bodies by path. statuses: answered to the next requests, in order, before any file is served;
    0 cuts the body in its middle. seen: method, path and token of every request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def web(host: str = "127.0.0.1", port: int = 0) -> Iterator[Web]:
    state = Web()
    server = ThreadingHTTPServer((host, port), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Web

    def log_message(self, *args: Any) -> None:
        pass

    def dispatch(self) -> None:
        self.state.seen.append((self.command, self.path, self.headers.get("Authorization")))
        status = self.state.statuses.pop(0) if self.state.statuses else None
        if status:
            self.answer(status, b'{"message": "says the test"}')
        elif self.command == "PUT":
            self.state.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(201, b"")
        elif self.path in self.state.files:
            self.answer(200, self.state.files[self.path], cut=status == 0)
        else:
            self.answer(404, b'{"message": "it is not there"}')

    do_GET = do_HEAD = do_PUT = dispatch  # noqa: N815 - http.server's names

    def answer(self, status: int, body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut
