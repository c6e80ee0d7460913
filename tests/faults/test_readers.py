"""Many readers, slow readers, readers that leave, and readers of what is still on its way. Cases 12, 13, 14 and 19."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import time
from urllib.parse import urlsplit

import aiohttp
import pytest
from gateway_process import eventually
from readers import Reader, curl
from servers_faulty import Fault
from shards import random_bytes, shard

from shardgate import WDTransform

SIZE = 6_000_000
READERS = 500


@pytest.fixture(scope="module")
def bucket_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bucket")


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, origin, bucket_folder):
    """Stalls are the point of most tests here, so the gateway must have patience with them."""
    settings = {"upstream.progress_timeout": 60, "etl.release_seconds": 0.3, "etl.workers": 1}
    return start_shared_gateway({"http://web": origin.url, "file://b": bucket_folder}, workers=3, settings=settings)


def test_followers_finish_when_the_leader_leaves(gateway, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    url = gateway.url("http://web", key)
    leader = Reader(url)
    eventually(lambda: len(leader.body) == SIZE // 2, what="the first half for the leader")
    followers = [Reader(url) for _ in range(8)]
    eventually(lambda: all(len(reader.body) == SIZE // 2 for reader in followers), what="the first half for all")
    leader.leave()
    origin.heal(key)
    assert all(reader.finish().body == data for reader in followers)
    assert origin.bytes_sent(key) == SIZE, "the object was fetched 1.00 times"


def test_the_fetch_goes_on_when_every_reader_left(gateway, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    reader = Reader(gateway.url("http://web", key))
    eventually(lambda: reader.body, what="the first bytes")
    reader.leave()
    origin.heal(key)
    assert curl(gateway.url("http://web", key)).body == data
    assert origin.bytes_sent(key) == SIZE


async def read_at_once(url: str, count: int, all_started) -> list[bytes]:
    """Open `count` connections, call back when all have their headers, and read all bodies to their verified end."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        answers = await asyncio.gather(*(session.get(url) for _ in range(count)))
        all_started()
        return await asyncio.gather(*(answer.read() for answer in answers))


async def test_500_misses_at_once_are_one_fetch(gateway, origin, key):
    data = random_bytes(1_000_000)
    origin.put(key, data)
    origin.fail(key, Fault(after=500_000, ending="stall"))
    bodies = await read_at_once(gateway.url("http://web", key), READERS, lambda: origin.heal(key))
    assert len(bodies) == READERS
    assert all(body == data for body in bodies)
    assert len(origin.gets(key)) == 1
    assert origin.bytes_sent(key) == len(data)


def test_head_and_conditions_are_answered_while_the_body_is_on_its_way(gateway, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data, etag="the-version")
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    url = gateway.url("http://web", key)
    reader = Reader(url)
    eventually(lambda: reader.body, what="the first bytes")
    for _ in range(3):  # every worker process
        head = curl(url, "-I")
        assert (head.status, head.headers["content-length"], head.headers["etag"]) == (200, str(SIZE), '"the-version"')
        assert curl(url, "-H", 'If-None-Match: "the-version"').status == 304
        assert curl(url, "-H", 'If-Match: "another"').status == 412
        part = curl(url, "-r", "1000-1999")
        assert (part.status, part.body) == (206, data[1000:2000])
    origin.heal(key)
    assert reader.finish().body == data
    assert origin.bytes_sent(key) == SIZE


class Slow:
    """A reader that asks, and then takes bytes only when it is told to; its receive buffer is small."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        self._socket.settimeout(60)
        self._socket.connect((parts.hostname, parts.port))
        target = f"{parts.path}?{parts.query}"
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        self._response = http.client.HTTPResponse(self._socket)
        self._response.begin()

    def take(self, count: int = -1) -> bytes:
        """So many bytes, or all that are left; raises if the body breaks off."""
        return self._response.read(count) if count >= 0 else self._response.read()

    def close(self) -> None:
        self._response.close()
        self._socket.close()


def test_slow_readers_cost_no_memory(gateway, bucket_folder):
    size = 100_000_000
    with (bucket_folder / "large.bin").open("wb") as file:
        for index in range(size // 1_000_000):
            file.write(random_bytes(1_000_000, index))
    url = gateway.url("file://b", "large.bin")
    curl(url, "-o", os.devnull)
    before = gateway.memory()
    readers = [Slow(url) for _ in range(100)]
    for reader in readers:
        assert len(reader.take(10_000)) == 10_000
    assert gateway.memory() - before < 32 << 20, "100 slow readers of 100 MB each"
    for reader in readers:
        reader.close()


def test_a_slow_reader_of_a_body_on_its_way_is_not_cut_for_being_slow(start_gateway, origin, key):
    """It pauses for longer than every timeout that there is."""
    data = random_bytes(SIZE)
    origin.put(key, data)
    gateway = start_gateway({"http://web": origin.url}, settings={"upstream.progress_timeout": 0.5})
    reader = Slow(gateway.url("http://web", key))
    beginning = reader.take(1000)
    time.sleep(2)
    assert beginning + reader.take() == data
    reader.close()


def reverse(sample):
    sample["bin"] = sample["bin"][::-1]
    return sample


def test_a_slow_reader_of_a_transform_gives_its_worker_to_others_and_gets_all_its_bytes(gateway, bucket_folder):
    """One worker: while the slow reader holds it, nobody else could read."""
    (bucket_folder / "a.tar").write_bytes(shard(1000))
    etl = WDTransform(gateway.client, reverse, "reverse", "", cache="never", workers=1)
    url = gateway.url("file://b", "a.tar", transform_id=etl.uuid)
    slow = Slow(url)
    beginning = slow.take(10_000)
    fast = curl(url)
    assert (fast.exit, fast.status) == (0, 200)
    assert beginning + slow.take() == fast.body
    slow.close()
    eventually(lambda: etl.stats()["released"] >= 1, what="the count of workers given back")
