"""A container for tests, as a command: turns every byte over, and misbehaves as the request's `args` tell it to.

{"echo": true}            answers what it was told, as JSON
{"status": 422, "say": …} answers this instead
{"length": true}          reads everything, then answers with a Content-Length
{"unframed": true}        answers with neither length nor chunks
{"cut": N, "times": M}    breaks off after N bytes, for the first M requests of this file of times
{"die": N, "times": M}    exits after N bytes
{"noise": true}           other bytes each time
{"wait": true}            says nothing for as long as the file `wait` is there
{"stop": N}               stops reading and writing after N bytes
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 16 << 10
TURNED = bytes(255 - value for value in range(256))


def turned(data: bytes) -> bytes:
    """What it makes of an object."""
    return data.translate(TURNED)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        if self.path == "/health":
            ready = not (self.folder / "ill").exists()
            self._answer(200 if ready else 503, b"")
        else:
            self.do_PUT()

    def do_PUT(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        said = query.get("args", "")
        assert unquote(self.headers["X-Shardgate-Args"]) == said
        self.how: dict[str, Any] = json.loads(said) if said.startswith("{") else {}
        print("request", self.command, self.headers["X-Shardgate-Object"], said, flush=True)
        if self.how.get("echo"):
            body = b"".join(self._body())
            told = {"query": query, "headers": dict(self.headers), "method": self.command, "bytes": len(body)}
            self._answer(200, json.dumps(told | {"env": dict(os.environ)}).encode())
        elif "status" in self.how:
            self._answer(self.how["status"], self.how.get("say", "").encode(), close=True)
        else:
            self._turn(query)

    def _turn(self, query: dict[str, str]) -> None:
        while self.how.get("wait") and (self.folder / "wait").exists():
            time.sleep(0.01)
        body = self._fetched(query["url"]) if "url" in query else self._body()
        if self.how.get("length"):
            self._answer(200, b"".join(map(turned, body)))
            return
        self.send_response(200)
        if self.how.get("unframed"):
            self.close_connection = True
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        faulty = self._faulty()
        sent = 0
        for piece in body:
            data = turned(piece)
            if self.how.get("noise"):
                data = os.urandom(len(data))
            if faulty and sent + len(data) > (limit := self.how.get("cut", self.how.get("die"))):
                self._send(data[: limit - sent])
                self._fail()
                return
            self._send(data)
            sent += len(data)
            while sent >= self.how.get("stop", sent + 1):
                time.sleep(1)
        if not self.how.get("unframed"):
            self.wfile.write(b"0\r\n\r\n")

    def _faulty(self) -> bool:
        """Whether this request is among those that are to fail; counted over restarts."""
        if "cut" not in self.how and "die" not in self.how:
            return False
        count = self.folder / "faults"
        done = int(count.read_text()) if count.exists() else 0
        count.write_text(str(done + 1))
        return done < self.how.get("times", 1)

    def _fail(self) -> None:
        self.wfile.flush()
        if "die" in self.how:
            os._exit(3)
        self.close_connection = True

    def _send(self, data: bytes) -> None:
        if self.how.get("unframed"):
            self.wfile.write(data)
        elif data:
            self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n")

    def _body(self) -> Iterator[bytes]:
        if "Content-Length" in self.headers:
            left = int(self.headers["Content-Length"])
            while left:
                data = self.rfile.read(min(left, PIECE))
                assert data, "the request ended early"
                left -= len(data)
                yield data
        elif self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data = self.rfile.read(size)
                assert len(data) == size, "the request ended early"
                self.rfile.readline()
                yield data
            self.rfile.readline()

    def _fetched(self, url: str) -> Iterator[bytes]:
        etag = self.headers.get("X-Shardgate-Etag")
        headers = {"If-Match": f'"{unquote(etag)}"'} if etag is not None else {}
        with urlopen(Request(url, headers=headers)) as response:
            while data := response.read(PIECE):
                yield data

    def _answer(self, status: int, body: bytes, *, close: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def main(port: int, folder: Path) -> None:
    handler = type("Handler", (_Handler,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    print("listening", flush=True)
    server.serve_forever()


def command(folder: Path) -> list[str]:
    """How to run it; `folder` keeps what it counts, and the files that steer it."""
    folder.mkdir(exist_ok=True)
    return [sys.executable, __file__, "{port}", str(folder)]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
