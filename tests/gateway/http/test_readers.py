"""Many readers of one object, slow ones, and ones that leave: what they do to each other and to the store."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from gateway_process import GatewayProcess, eventually, running_gateway
from readers import Reader, curl
from servers_faulty import Fault, FaultyOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8 << 20
HALF = SIZE // 2
BODY = os.urandom(SIZE)
READERS = 500


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(origin: FaultyOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("readers")
    buckets = {"http://files": {"where": origin.url, "freshness": "immutable"}}
    with running_gateway(folder, buckets, workers=2) as running:
        yield running


def stalled(origin: FaultyOrigin, key: str) -> None:
    """An object whose second half waits until the origin is released."""
    origin.put(key, BODY)
    origin.fail(key, Fault(after=HALF, ending="stall"))


def test_500_readers_of_a_cold_object_cost_the_store_one(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("popular", BODY[: 1 << 20])
    url = gateway.url("http://files", "popular")
    start = threading.Barrier(READERS)
    expected = hashlib.sha256(BODY[: 1 << 20]).digest()

    def read(_: int) -> bool:
        start.wait()
        return hashlib.sha256(Reader(url).finish().body).digest() == expected

    with ThreadPoolExecutor(READERS) as pool:
        assert all(pool.map(read, range(READERS)))
    assert origin.bytes_sent("popular") == 1 << 20


def test_followers_finish_when_the_first_reader_leaves(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    stalled(origin, "left")
    url = gateway.url("http://files", "left")
    leader = Reader(url)
    eventually(lambda: leader.body)
    followers = [Reader(url) for _ in range(3)]
    eventually(lambda: all(follower.body for follower in followers))
    leader.leave()
    origin.heal("left")
    assert all(follower.finish().body == BODY for follower in followers)
    assert origin.bytes_sent("left") == SIZE


def test_conditions_head_and_ranges_are_answered_while_the_object_fills(
    gateway: GatewayProcess, origin: FaultyOrigin
) -> None:
    stalled(origin, "filling")
    url = gateway.url("http://files", "filling")
    reader = Reader(url)
    eventually(lambda: len(reader.body) > HALF // 2)
    head = curl(url, "-I")
    assert (head.status, head.headers["content-length"]) == (200, str(SIZE))
    etag = head.headers["etag"]
    assert curl(url, "-H", f"If-None-Match: {etag}").status == 304
    assert curl(url, "-I", "-H", f"If-None-Match: {etag}").status == 304
    assert curl(url, "-H", 'If-Match: "x"').status == 412
    part = curl(url, "-r", "100-199")
    assert (part.status, part.body, part.headers["x-shardgate-cache"]) == (206, BODY[100:200], "filling")
    assert curl(url, "-r", f"{SIZE}-").status == 416
    assert reader.whole is None
    origin.heal("filling")
    assert reader.finish().body == BODY


def test_an_object_that_is_evicted_while_it_is_read_is_read_to_its_end(
    gateway: GatewayProcess, origin: FaultyOrigin
) -> None:
    origin.put("evicted", BODY)
    url = gateway.url("http://files", "evicted")
    assert curl(url).body == BODY
    eventually(lambda: curl(url).headers["x-shardgate-cache"] == "hit")
    with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        slow.sendall(b"GET /v1/objects/files/evicted HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
        received = slow.recv(1 << 14)
        evict = f"{gateway.endpoint}/v1/cache/evict?bucket=files&object=evicted"
        assert b'"evicted": 1' in curl(evict, "-X", "POST").body
        while data := slow.recv(1 << 20):
            received += data
    assert received.partition(b"\r\n\r\n")[2] == BODY


def test_readers_that_do_not_read_cost_no_memory_and_are_not_cut(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("slow", BODY)
    assert curl(gateway.url("http://files", "slow")).body == BODY
    before = gateway.memory()
    with ExitStack() as stack:
        readers = []
        for _ in range(40):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
            connection.sendall(b"GET /v1/objects/files/slow HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
            readers.append((connection, connection.recv(1 << 14)))
        for connection, beginning in readers:
            received = bytearray(beginning)
            while data := connection.recv(1 << 20):
                received += data
            assert received.partition(b"\r\n\r\n")[2] == BODY
    assert gateway.memory() < before + SIZE
