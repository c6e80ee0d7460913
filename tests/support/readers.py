"""How bodies are read from outside: curl, raw sockets and webdataset, each as its users have it."""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shardgate.wds_opener import register_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What came back. `exit` is curl's: 0 says that curl took the body for whole."""

    exit: int
    status: int
    headers: dict[str, str]
    body: bytes


def curl_command(url: str, *options: str) -> list[str]:
    """curl as webdataset calls it, plus headers; fails on 400 and above only by what the caller sees."""
    return ["curl", "-s", "--globoff", "--path-as-is", "-D", "/dev/stderr", *options, url]


def curl(url: str, *options: str) -> Answer:
    """Read a URL to its end."""
    return answered(start_curl(url, *options))


def start_curl(url: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(curl_command(url, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def answered(process: subprocess.Popen[bytes]) -> Answer:
    """What a started curl gets."""
    body, head = process.communicate(timeout=READ_SECONDS)
    status, headers = parse_head(head)
    return Answer(process.returncode, status, headers, body)


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of the last answer in `head`, names in lower case; 0 where there was none."""
    blocks = [block for block in head.decode("latin-1").split("\r\n\r\n") if block.startswith("HTTP/")]
    if not blocks:
        return 0, {}
    first, *lines = blocks[-1].split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, value in pairs}


def send_raw(endpoint: str, request: bytes) -> Answer:
    """Send these bytes and read until the gateway closes; `exit` is 0 if it closed orderly."""
    parts = urlsplit(endpoint)
    received, code = b"", 0
    with socket.create_connection((parts.hostname, parts.port), timeout=READ_SECONDS) as sock:
        try:
            sock.sendall(request)
            while data := sock.recv(1 << 16):
                received += data
        except ConnectionError:
            code = 1
    head, _, body = received.partition(b"\r\n\r\n")
    status, headers = parse_head(head + b"\r\n\r\n") if head else (0, {})
    return Answer(code, status, headers, body)


def get_raw(endpoint: str, target: str, **headers: str) -> Answer:
    """GET exactly this target, which no client would send unchanged."""
    lines = [f"GET {target} HTTP/1.1", "Host: gateway", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return send_raw(endpoint, ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))


class Reader(threading.Thread):
    """One HTTP reader that is under way; the kernel's name of its connection is known from the start.

    Attributes:
        port: Our end of its connection.
        body: Bytes so far.
        whole: Whether the whole body came; None while it is under way.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=READ_SECONDS)
        self._connection.connect()
        self._target = f"{parts.path}?{parts.query}"
        self.port: int = self._connection.sock.getsockname()[1]
        self.body = b""
        self.status = 0
        self.whole: bool | None = None
        self.start()

    def run(self) -> None:
        try:
            self._connection.request("GET", self._target)
            response = self._connection.getresponse()
            self.status = response.status
            while data := response.read1(1 << 16):
                self.body += data
            self.whole = response.length in {None, 0}
        except (OSError, http.client.HTTPException):
            self.whole = False
        finally:
            self._connection.close()

    def leave(self) -> None:
        """Hang up in the middle."""
        with suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self.join(READ_SECONDS)

    def finish(self) -> Reader:
        """Wait for the end, whichever it is."""
        self.join(READ_SECONDS)
        assert not self.is_alive(), f"a reader hangs after {len(self.body)} bytes"
        return self


def webdataset_samples(url: str) -> Iterator[dict[str, Any]]:
    """Samples as a training loop gets them, undecoded, from a URL that a client of this gateway made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        parts = urlsplit(url)
        register_endpoint(f"{parts.scheme}://{parts.netloc}", None)
        yield from webdataset.WebDataset(url, shardshuffle=False)
