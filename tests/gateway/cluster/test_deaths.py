"""Gateways that die, drain, come back empty or are new, while readers read: a pause or a broken connection, no more."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
from gateway_cluster import running_cluster
from gateway_process import eventually
from readers import Reader, answered, curl, start_curl
from servers_faulty import Fault
from shards import random_bytes

from shardgate import Client, wire

BUCKET = "http://b"
SIZE = 4_000_000
KEYS = [f"{index}.bin" for index in range(12)]
LARGE = 40_000_000
"""More than fits into all buffers between a gateway and its reader."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, origin):
    """Every test starts again what it killed."""
    for index, key in enumerate(KEYS):
        origin.put(key, random_bytes(SIZE, index))
    origin.put("large.bin", random_bytes(LARGE))
    with running_cluster(tmp_path_factory.mktemp("deaths"), {BUCKET: origin.url}) as gateways:
        yield gateways
        assert {m["name"] for m in members(gateways["a"])} == set("abc")


class Streaming(threading.Thread):
    """Our client, reading object after object slowly enough that every failure meets it in the middle of one."""

    def __init__(self, endpoints: str, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._client, self._number, self._stop_it = Client(endpoints), number, stop
        self.read, self.pause, self.error = 0, 0.0, ""
        self.start()

    def run(self) -> None:
        turn = self._number
        try:
            while not self._stop_it.is_set():
                index = turn = (turn + 5) % len(KEYS)
                body, last = b"", time.monotonic()
                with self._client.open(BUCKET, KEYS[index]) as reader:
                    while chunk := reader.read(1 << 17):
                        body += chunk
                        self.pause, last = max(self.pause, time.monotonic() - last), time.monotonic()
                        time.sleep(0.005)
                assert body == random_bytes(SIZE, index), f"wrong bytes of {KEYS[index]}"
                self.read += 1
        except Exception as error:  # noqa: BLE001 (the test shows it)
            self.error = repr(error)


# Three gateways are killed, drained, emptied and started again under eight readers.
@pytest.mark.slow
def test_eight_readers_read_on_while_gateways_die_drain_and_come_back_empty(cluster, origin):
    stop = threading.Event()
    endpoints = [gateway.endpoint for gateway in cluster.values()]
    readers = [Streaming(",".join(endpoints[n % 3 :] + endpoints[: n % 3]), n, stop) for n in range(8)]

    def progress() -> None:
        before = [reader.read for reader in readers]
        eventually(
            lambda: any(r.error for r in readers) or all(r.read > b for r, b in zip(readers, before, strict=True)),
            seconds=60,
            what="an object more for every reader",
        )

    try:
        progress()
        progress()
        assert all(origin.bytes_sent(key) <= SIZE for key in KEYS), "each object is fetched once by all together"
        cluster["a"].kill()
        progress()
        cluster["a"].start()
        progress()
        cluster["b"].stop()
        progress()
        shutil.rmtree(cluster["b"].cache)
        cluster["b"].start()
        progress()
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
    print("longest pauses:", [round(reader.pause, 2) for reader in readers], "read:", sum(r.read for r in readers))
    assert [reader.error for reader in readers] == [""] * 8


def test_another_reader_of_a_gateway_that_is_killed_sees_a_broken_connection(cluster):
    owner, other, _ = cluster.ranked(BUCKET, "large.bin")
    assert curl(cluster[other].url(BUCKET, "large.bin")).exit == 0
    slow = [start_curl(cluster[name].url(BUCKET, "large.bin"), "--limit-rate", "1M") for name in (owner, other)]
    assert all(reader.stdout.read(1 << 16) for reader in slow), "both are in the middle"
    cluster[owner].kill()
    for reader in slow:
        assert answered(reader).exit != 0
    cluster[owner].start()


def test_an_object_moves_to_the_next_in_rank_and_back_when_its_owner_is_back(cluster, origin):
    key, data = KEYS[1], random_bytes(SIZE, 1)
    owner, second, third = cluster.ranked(BUCKET, key)
    assert curl(cluster[third].url(BUCKET, key)).headers[wire.MEMBER_HEADER.lower()] == owner
    fetched = origin.bytes_sent(key)
    cluster[owner].kill()
    for _ in range(2):
        answer = curl(cluster[third].url(BUCKET, key))
        assert (answer.body == data, answer.headers[wire.MEMBER_HEADER.lower()]) == (True, second)
    assert curl(cluster[second].url(BUCKET, key)).body == data
    assert origin.bytes_sent(key) - fetched == SIZE, "the next in rank fetched it, once"
    assert [m["live"] for m in members(cluster[third]) if m["name"] == owner] == [False]
    cluster[owner].start()
    eventually(lambda: all(m["live"] for m in members(cluster[third])), what="the owner's return")
    answer = curl(cluster[third].url(BUCKET, key))
    assert (answer.body == data, answer.headers[wire.MEMBER_HEADER.lower()]) == (True, owner)
    assert origin.bytes_sent(key) - fetched == SIZE, "its cache outlived it"


def test_what_was_fetched_while_its_owner_was_away_is_not_fetched_again(cluster, origin):
    key, data = "away.bin", random_bytes(SIZE, 30)
    origin.put(key, data)
    owner, _, third = cluster.ranked(BUCKET, key)
    cluster[owner].kill()
    assert curl(cluster[third].url(BUCKET, key)).body == data
    cluster[owner].start()
    eventually(lambda: all(m["live"] for gateway in cluster.values() for m in members(gateway)), what="its return")
    for name in cluster:
        answer = curl(cluster[name].url(BUCKET, key))
        assert (answer.body == data, answer.headers.get(wire.MEMBER_HEADER.lower(), name)) == (True, owner)
    assert origin.bytes_sent(key) == SIZE


def test_an_owner_that_comes_back_in_the_middle_of_a_fetch_joins_it(cluster, origin):
    key, data = "middle.bin", random_bytes(SIZE, 31)
    origin.put(key, data)
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    owner, _, third = cluster.ranked(BUCKET, key)
    cluster[owner].kill()
    first = Reader(cluster[third].url(BUCKET, key))
    eventually(lambda: len(first.body) >= SIZE // 4, what="the first bytes from the stand-in")
    cluster[owner].start()
    second = Reader(cluster[owner].url(BUCKET, key))
    eventually(lambda: len(second.body) >= SIZE // 4, what="the same bytes at the owner")
    origin.release()
    assert [reader.finish().body == data for reader in (first, second)] == [True, True]
    assert origin.bytes_sent(key) == SIZE, "two owners for a moment, and one fetch"


@pytest.mark.parametrize("through", ["owner", "proxy"])
def test_another_reader_of_a_gateway_that_drains_gets_all_or_a_broken_connection(cluster, through):
    owner, other, _ = cluster.ranked(BUCKET, "large.bin")
    url = cluster[owner if through == "owner" else other].url(BUCKET, "large.bin")
    assert curl(url).exit == 0
    quick, slow = start_curl(url, "--limit-rate", "20M"), start_curl(url, "--limit-rate", "4M")
    began = [reader.stdout.read(1 << 16) for reader in (quick, slow)]
    cluster[owner].stop()
    assert answered(quick).exit == 0, "there was time enough"
    answer = answered(slow)
    body = began[1] + answer.body
    assert random_bytes(LARGE).startswith(body)
    assert (answer.exit == 0) == (len(body) == LARGE), "what the proxy had taken by then may have been all"
    cluster[owner].start()
    eventually(lambda: all(m["live"] for gateway in cluster.values() for m in members(gateway)), what="its return")


def members(gateway):
    return json.loads(curl(f"{gateway.endpoint}/v1/cluster").body)["members"]


def test_a_client_whose_direct_way_is_gone_goes_through_the_endpoint_again(cluster):
    key = KEYS[2]
    owner, other, _ = cluster.ranked(BUCKET, key)
    client = Client(cluster[other].endpoint)
    for _ in range(2):
        assert client.get(BUCKET, key) == random_bytes(SIZE, 2)
    cluster[owner].kill()
    assert client.get(BUCKET, key) == random_bytes(SIZE, 2)
    cluster[owner].start()
