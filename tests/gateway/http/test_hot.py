"""Answers from memory: the same as those of the ordinary path, and only where nothing speaks against them.

A hot answer can be told by what it does not do: it makes no task, so it is not counted in the histogram of durations.
"""

from __future__ import annotations

import re
import socket
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest
from gateway_process import eventually, running_gateway
from readers import Answer, curl, parse_head

from shardgate_gateway.http.hot import HotPath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway_process import GatewayProcess

PATH = "/v1/objects/fixed/small"


def durations(gateway: GatewayProcess) -> float:
    """How many requests for objects took the ordinary path, once all that were answered are counted."""
    text = ""

    def is_settled() -> bool:
        nonlocal text
        text = curl(f"{gateway.endpoint}/metrics").body.decode()
        running = re.search(r"^shardgate_http_running (\S+)", text, re.MULTILINE)
        return running is not None and float(running[1]) == 1  # this question itself

    eventually(is_settled)
    every = re.search(r'shardgate_http_request_duration_seconds_count\{route="objects"\} (\S+)', text)
    fast = re.search(r"^shardgate_http_fast_total (\S+)", text, re.MULTILINE)
    return (float(every[1]) if every else 0.0) - (float(fast[1]) if fast else 0.0)


def ask(client: socket.socket, *headers: str, method: str = "GET", version: str = "1.1", path: str = PATH) -> Answer:
    """One request on an open connection."""
    head = "".join(f"{header}\r\n" for header in ("Host: g", *headers))
    client.sendall(f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    top, _, body = received.partition(b"\r\n\r\n")
    status, fields = parse_head(top + b"\r\n\r\n")
    size = 0 if method == "HEAD" or status == 304 else int(fields["content-length"])
    while len(body) < size:
        body += client.recv(65536)
    return Answer(0, status, fields, body)


@pytest.fixture
def client(gateway: GatewayProcess) -> socket.socket:
    """A connection to a gateway that has the small object in memory."""
    eventually(lambda: curl(gateway.endpoint + PATH).headers["x-shardgate-cache"] == "hit")
    connection = socket.create_connection(("127.0.0.1", gateway.port))
    connection.settimeout(20)
    yield connection
    connection.close()


def test_a_warm_small_object_never_enters_the_ordinary_path(
    gateway: GatewayProcess, client: socket.socket, objects: dict[str, bytes]
) -> None:
    before = durations(gateway)
    for _ in range(10):
        assert ask(client).body == objects["small"]
    assert durations(gateway) == before


def test_a_hot_answer_has_the_headers_of_an_ordinary_one(gateway: GatewayProcess, client: socket.socket) -> None:
    before = durations(gateway)
    hot = ask(client, "X-Request-Id: one")
    assert durations(gateway) == before
    ordinary = ask(client, "X-Request-Id: one", "Expect: ")
    assert durations(gateway) == before + 1
    assert hot.headers.keys() == ordinary.headers.keys()
    assert {k: v for k, v in hot.headers.items() if k != "date"} == {
        k: v for k, v in ordinary.headers.items() if k != "date"
    }


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Range: bytes=0-9", 206),
        ("Range: bytes=9999-", 416),
        ("If-None-Match: *", 304),
        ('If-Match: "x"', 412),
        ("If-Modified-Since: Sat, 21 Nov 2099 08:00:00 GMT", 304),
        ("If-Unmodified-Since: Sat, 21 Nov 1999 08:00:00 GMT", 412),
    ],
)
def test_a_request_that_needs_thought_gets_it(client: socket.socket, header: str, status: int) -> None:
    for _ in range(2):
        assert ask(client, header).status == status
        assert ask(client).status == 200


def test_other_methods_are_left_alone(client: socket.socket) -> None:
    head = ask(client, method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, "4096")
    assert ask(client, method="PATCH").status == 405


def test_the_body_of_a_get_is_not_taken_for_the_next_request(client: socket.socket, objects: dict[str, bytes]) -> None:
    inner = f"GET {PATH} HTTP/1.1\r\nHost: g\r\n\r\n"
    for framing in (f"Content-Length: {len(inner)}\r\n\r\n{inner}", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
        client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: g\r\nX-Request-Id: first\r\n{framing}".encode())
        first = b""
        while not first.endswith(objects["small"]):
            first += client.recv(65536)
        assert first.count(b"HTTP/1.1 200 OK") == 1
        assert ask(client, "X-Request-Id: second").headers["x-request-id"] == "second"


def test_a_client_that_wants_to_close_is_let_go(client: socket.socket, objects: dict[str, bytes]) -> None:
    answer = ask(client, "Connection: close")
    assert (answer.body, answer.headers["connection"]) == (objects["small"], "close")
    assert client.recv(1) == b""


def test_requests_in_one_packet_and_in_many_are_all_answered_in_order(
    gateway: GatewayProcess, client: socket.socket, objects: dict[str, bytes]
) -> None:
    one = f"GET {PATH} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    big = b"GET /v1/objects/fixed/big HTTP/1.1\r\nHost: g\r\n\r\n"
    client.sendall(one + big + one + one)
    for piece in (one[:7], one[7:40], one[40:]):
        time.sleep(0.02)
        client.sendall(piece)
    bodies, received = [], b""
    while len(bodies) < 5:
        received += client.recv(1 << 20)
        while b"\r\n\r\n" in received:
            top, _, rest = received.partition(b"\r\n\r\n")
            size = int(parse_head(top + b"\r\n\r\n")[1]["content-length"])
            if len(rest) < size:
                break
            bodies.append(rest[:size])
            received = rest[size:]
    small, large = objects["small"], objects["big"]
    assert bodies == [small, large, small, small, small]


def test_a_pipelining_client_that_does_not_read_is_not_answered_without_end(
    gateway: GatewayProcess, client: socket.socket
) -> None:
    """Its answers would have to be kept in memory."""
    one = f"GET {PATH} HTTP/1.1\r\nHost: g\r\n\r\n".encode()
    client.setblocking(False)
    before = gateway.memory()
    sent = 0
    for _ in range(20_000):
        try:
            sent += client.send(one * 20)
        except BlockingIOError:
            time.sleep(0.0001)
    assert gateway.memory() < before + 30_000_000
    assert sent > 0


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[GatewayProcess]:
    """Only its administrator may read."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "small").write_bytes(b"x" * 4096)
    with running_gateway(
        tmp_path, {"file://b": tmp_path / "files"}, settings={"serve.token": "secret"}, workers=1
    ) as gateway:
        yield gateway


def flood(gateway: GatewayProcess, count: int, *headers: str) -> set[int]:
    """Requests for as many long targets, on one connection; the statuses that came back."""
    statuses = set()
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.settimeout(20)
        for number in range(count):
            statuses.add(ask(client, *headers, path=f"/v1/objects/b/{number:06d}{'y' * 4000}").status)
    return statuses


@pytest.mark.parametrize(("header", "status"), [("X-None: 1", 401), ("Authorization: Bearer secret", 400)])
def test_targets_that_nobody_may_read_or_that_name_nothing_fill_no_memory(
    flooded: GatewayProcess, header: str, status: int
) -> None:
    assert flood(flooded, 200, header) == {status}
    before = flooded.memory()
    assert flood(flooded, 3000, header) == {status}
    assert flooded.memory() < before + 8_000_000


def test_other_spellings_of_one_object_fill_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = HotPath.__new__(HotPath)
    hot._sources, hot._sources_bytes = OrderedDict(), 0
    monkeypatch.setattr("shardgate_gateway.http.hot.TARGETS_BYTES", 100_000)
    for number in range(1000):
        for _ in range(2):
            hot._remember(f"/v1/objects/b/{number:06d}{'z' * 1000}", object())
    assert 20 < len(hot._sources) < 40
    assert f"/v1/objects/b/000999{'z' * 1000}" in hot._sources
    assert hot._sources_bytes <= 100_000
