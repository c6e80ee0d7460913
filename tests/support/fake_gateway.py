"""A gateway in memory, for tests of the client: the HTTP surface of design.md, with faults on demand.

Real sockets and real HTTP, but no cache, no store and no ETL: what the client does on a broken connection is tested
against connections that break exactly where the test says.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from shardgate import wire
from shardgate.urls import without_tag

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 3


@dataclass
class Fault:
    """One answer of a GET that goes wrong.

    Attributes:
        after: Bytes of the body that are sent before it breaks.
        status: Answer with this error status instead.
        then: What the object is from the next answer on.
        reset: Break with RST, which may take along what the client has not read yet.
    """

    after: int = 0
    then: bytes | None = None
    reset: bool = True
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeGateway:
    """Attributes: objects: by "provider://bucket/key". faults: for the next GETs, in order. requests: what came."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    loses_answers: bool = False
    """Of DELETE, once it is done."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    chunked: bool = False
    ranges: bool = True
    etags: bool = True
    etag_text: str = ""
    """The ETag of every answer, in place of one that follows from the bytes."""
    results: bool = False
    """Objects are results of a transform."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    start_error: dict[str, Any] | None = None
    stats: dict[str, int] = field(default_factory=lambda: {"samples_in": 3})
    facts: dict[str, Any] = field(default_factory=dict)
    """Further fields of every transform's record."""
    token: str = ""

    def etag(self, body: bytes) -> str:
        if self.etag_text:
            return self.etag_text
        return f'"{hashlib.sha256(body).hexdigest()[:16]}"' if self.etags else ""


@contextmanager
def fake_gateway() -> Iterator[FakeGateway]:
    state = FakeGateway()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeGateway

    def log_message(self, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def dispatch(self) -> None:
        self.state.requests.append((self.command, self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self.problem(401, "unauthenticated", "no valid token")
            return
        _, _, room, *rest = parts.path.split("/", 3)
        getattr(self, room)(rest[0] if rest else "")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = dispatch  # noqa: N815 - http.server's names

    def objects(self, rest: str) -> None:
        bucket, _, key = rest.partition("/")
        tag = self.query.get("tag", "")
        found = without_tag(unquote(key), tag) if tag else unquote(key)
        name = f"{self.query['provider']}://{unquote(bucket)}/{found}"
        if self.command == "PUT":
            self.state.objects[name] = self.body()
            self.answer(201)
        elif name not in self.state.objects:
            self.problem(404, "not_found", f"{name} is not there", "look with `shardgate ls`")
        elif self.command == "DELETE":
            del self.state.objects[name]
            if self.state.loses_answers:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            else:
                self.answer(204)
        else:
            body = self.state.objects[name]
            if self.command == "GET" and self.state.faults and self.state.faults[0].then is not None:
                self.state.objects[name] = self.state.faults[0].then
            self.send_object(body)

    def send_object(self, body: bytes) -> None:
        etag = self.state.etag(body)
        fault = self.state.faults.pop(0) if self.state.faults and self.command == "GET" else None
        if fault and fault.status:
            self.problem(fault.status, "busy" if fault.status == 503 else "", "not now", headers=fault.headers)
            return
        if self.headers.get("If-Match", etag) != etag:
            self.problem(412, "precondition_failed", "the object has another version now")
            return
        start = 0
        if self.state.ranges and (span := self.headers.get("Range")):
            start = int(span.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(body):
            self.problem(416, "range_not_satisfiable", f"there is no byte {start}")
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", etag) if etag else None
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.state.results:
            self.send_header("X-Shardgate-Transform", "t")
        for name, value in self.state.answer_headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 07:00:00 GMT")
        chunked = self.state.chunked
        self.send_header(
            "Transfer-Encoding" if chunked else "Content-Length", "chunked" if chunked else str(len(body) - start)
        )
        self.end_headers()
        if self.command == "GET":
            self.send_body(body[start:], fault, chunked)

    def send_body(self, body: bytes, fault: Fault | None, chunked: bool) -> None:
        sent = body[: fault.after] if fault else body
        for at in range(0, len(sent), 1 << 16):
            piece = sent[at : at + (1 << 16)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if fault:
            self.wfile.flush()
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif chunked:
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.state.trailers.items())
            self.wfile.write(b"0\r\n%s\r\n" % lines.encode())

    def buckets(self, rest: str) -> None:
        if not rest:
            self.answer(
                200, {"buckets": [{"provider": "gcp", "name": "b", "bucket": "gcp://b", "freshness": "revalidate"}]}
            )
            return
        prefix = f"{self.query['provider']}://{unquote(rest)}/"
        wanted = prefix + self.query.get("prefix", "")
        names = sorted(name for name in self.state.objects if name.startswith(wanted))
        start = int(self.query.get("token", 0))
        page = names[start : start + PAGE]
        objects = [
            {
                "name": name.removeprefix(prefix),
                "size": len(self.state.objects[name]),
                "etag": self.state.etag(self.state.objects[name]).strip('"'),
                "last_modified": "2026-11-21T07:00:00+00:00",
            }
            for name in page
        ]
        more = str(start + PAGE) if start + PAGE < len(names) else None
        self.answer(200, {"objects": objects, "prefixes": [], "token": more})

    def transforms(self, rest: str) -> None:
        name, _, action = rest.partition("/")
        name = self.state.names.get(name, name)
        if not name and self.command == "POST":
            package = self.body()
            manifest, _ = wire.unpack_package(package)
            uuid = wire.transform_id(manifest.name, package)
            self.state.packages[uuid] = package
            self.state.names[manifest.name] = uuid
            self.answer(200, {"id": uuid, "name": manifest.name, "options": self.query})
        elif not name:
            self.answer(200, [self.record(uuid) for uuid in self.state.packages])
        elif name not in self.state.packages:
            self.problem(404, "not_found", f"no transform {name}")
        elif action == "start" and self.state.start_error:
            self.answer(422, self.state.start_error)
        elif self.command == "DELETE":
            del self.state.packages[name]
            self.answer(204)
        elif action == "logs":
            self.answer(200, f"last {self.query['tail']} lines of {name}\n".encode())
        elif action == "package":
            self.answer(200, self.state.packages[name])
        else:
            self.answer(200, self.state.stats if action == "stats" else self.record(name))

    def record(self, uuid: str) -> dict[str, Any]:
        return {
            "id": uuid,
            "name": uuid.rpartition("-")[0],
            "state": "ready",
            "created_at": "2026-11-21T07:00:00+00:00",
            **self.state.facts,
        }

    def cache(self, rest: str) -> None:
        self.answer(200, {"entries": 1, "bytes": 5} if not rest else {"objects": 1})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def problem(
        self, status: int, code: str, message: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        said = {"code": code, "message": message, "hint": hint, "request_id": "r-1"}
        self.answer(status, said, headers)

    def answer(self, status: int, data: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
