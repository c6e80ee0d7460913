"""Any gateway answers for any object, and one of them has it."""

from __future__ import annotations

import json
import os
import socket
from threading import Thread

import pytest
from gateway_process import GatewayProcess, eventually
from readers import Reader, curl
from servers_faulty import Fault
from shards import random_bytes, shard

from shardgate import Client, WDTransform, wire
from shardgate.errors import NotFound
from shardgate_gateway.cache.source import entry_name
from shardgate_gateway.cluster.placement import rank

BUCKET = "http://b"
SIZE = 3_000_000
MEMBER = wire.MEMBER_HEADER.lower()


def test_all_gateways_give_the_same_bytes_and_one_of_them_fetched_them_once(cluster, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    owner = cluster.ranked(BUCKET, key)[0]
    for name in (*"abc", *"cba"):
        answer = curl(cluster[name].url(BUCKET, key))
        assert (answer.exit, answer.status, answer.body) == (0, 200, data)
        assert answer.headers.get(MEMBER) == (None if name == owner else owner)
    assert origin.bytes_sent(key) == SIZE


def test_readers_of_a_cold_object_at_all_gateways_at_once_cost_one_fetch(cluster, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    readers = [Reader(cluster[name].url(BUCKET, key)) for name in "abc" * 4]
    assert [reader.finish().body == data for reader in readers] == [True] * 12
    assert origin.bytes_sent(key) == SIZE


@pytest.mark.parametrize("text", ["Grüße, 世界", "\udce9\udcff"], ids=["UTF-8", "no text"])
def test_a_header_that_is_not_ascii_is_passed_on_like_any_other(cluster, origin, key, text):
    origin.put(key, b"hello")
    for name in "abc":
        assert curl(cluster[name].url(BUCKET, key), "-A", text).body == b"hello"


def test_a_proxied_answer_is_the_owners_answer(cluster, origin, key):
    data = shard(5)
    origin.put(key, data, etag="v7")
    owner, other, _ = cluster.ranked(BUCKET, key)
    for options, query in (
        ([], {}),
        (["-r", "5-99"], {}),
        (["-I", "-o", "/dev/null"], {}),
        (["-H", 'If-None-Match: "v7"'], {}),
        (["-H", 'If-Match: "v6"'], {}),
        (["-r", f"{len(data)}-"], {}),
        ([], {"archpath": "nobody.txt"}),
        ([], {"nonsense": "1"}),
        (["-X", "PATCH"], {}),
    ):
        mine, theirs = (
            curl(cluster[name].url(BUCKET, key, **query), "-H", "X-Request-Id: same", *options)
            for name in (owner, other)
        )
        assert (mine.exit, mine.status, mine.body) == (theirs.exit, theirs.status, theirs.body)
        ignored = {MEMBER, "date", "connection", wire.CACHE_HEADER.lower()}
        assert {k: v for k, v in theirs.headers.items() if k not in ignored} == {
            k: v for k, v in mine.headers.items() if k not in ignored
        }


def test_a_connection_that_was_proxied_is_used_again(cluster, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    origin.put(f"small-{key}", b"small")
    urls = [cluster["a"].url(BUCKET, name) for name in (key, f"small-{key}") * 3]
    answer = curl(urls[-1], *urls[:-1], "-w", "%{num_connects} ")
    assert answer.exit == 0
    connects = [b"1 "] + [b"0 "] * 5
    assert answer.body == b"".join(body + new for body, new in zip([data, b"small"] * 3, connects, strict=True))


def test_a_client_is_redirected_to_the_gateways_that_it_says_it_reaches_and_to_no_others(cluster, origin, key):
    origin.put(key, b"data")
    owner, other, third = cluster.ranked(BUCKET, key)
    url = cluster[other].url(BUCKET, key)
    reached = curl(url, "-H", f"{wire.REACH_HEADER}: {owner}, {third}")
    assert reached.status == 307
    assert reached.headers["location"] == url.replace(cluster[other].endpoint, cluster[owner].endpoint)
    unreached = curl(url, "-H", f"{wire.REACH_HEADER}: {third}")
    assert (unreached.status, unreached.body) == (200, b"data")


def test_our_client_finds_out_what_it_reaches_and_goes_there(cluster, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    client = Client(cluster[cluster.others(BUCKET, key)[0]].endpoint)
    with client.open(BUCKET, key) as first:
        assert first.read() == data
        assert wire.MEMBER_HEADER in first.headers, "it came through another gateway"
    with client.open(BUCKET, key) as second:
        assert second.read() == data
        assert wire.MEMBER_HEADER not in second.headers, "it came straight from its owner"


def test_a_body_that_breaks_off_at_the_owner_breaks_off_at_the_proxy(cluster, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    origin.fail(key, Fault(after=SIZE // 2))
    origin.fail(key, Fault(status=500), times=100)
    answer = curl(cluster[cluster.others(BUCKET, key)[0]].url(BUCKET, key))
    assert answer.exit != 0, "no reader takes half for the whole"
    assert data.startswith(answer.body)
    origin.heal(key)


def test_when_the_reader_leaves_the_owner_is_left_too(cluster, origin, key):
    origin.put(key, random_bytes(SIZE))
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    owner, other, _ = cluster.ranked(BUCKET, key)
    reader = Reader(cluster[other].url(BUCKET, key))
    eventually(lambda: len(reader.body) >= SIZE // 2 - (1 << 16), what="the first half")
    assert running(cluster[owner]) == 1
    reader.leave()
    eventually(lambda: running(cluster[owner]) == 0, what="the end of the request at the owner")
    origin.release()


def running(gateway) -> int:
    """Requests being answered besides the one that asks."""
    lines = curl(f"{gateway.endpoint}/metrics").body.decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("shardgate_http_running")))) - 1


def test_what_is_written_at_any_gateway_is_read_at_all(cluster, key):
    for number, name in enumerate("abcabc"):
        data = os.urandom(100_000 + number)
        cluster[name].client.put("file://f", key, data)
        for reader in "abc":
            assert curl(cluster[reader].url("file://f", key)).body == data, "also in a bucket of immutable objects"
    cluster["b"].client.delete("file://f", key)
    assert [curl(cluster[name].url("file://f", key)).status for name in "abc"] == [404] * 3


def test_an_upload_of_unknown_length_is_passed_on_whole(cluster, key, tmp_path):
    data = random_bytes(SIZE)
    (tmp_path / "data").write_bytes(data)
    for name in "abc":
        url = cluster[name].url("file://f", f"{name}-{key}")
        answer = curl(url, "-X", "PUT", "-H", "Transfer-Encoding: chunked", "-T", str(tmp_path / "data"))
        assert (answer.exit, answer.status) == (0, 200)
        assert json.loads(answer.body)["size"] == SIZE
        assert curl(url).body == data


def test_a_write_that_the_owner_refuses_is_refused_with_its_words(cluster, key):
    cluster["a"].client.put("file://f", key, b"first")
    for name in "abc":
        answer = curl(cluster[name].url("file://f", key), "-T", "/etc/hostname", "-H", "If-None-Match: *")
        assert answer.status == 412
        assert json.loads(answer.body)["code"] == "precondition_failed"
    assert [curl(cluster[name].url("file://f", key)).body for name in "abc" * 3] == [b"first"] * 9


def reverse(sample):
    sample["bin"] = sample["bin"][::-1]
    return sample


def test_a_transform_registered_at_one_gateway_is_run_by_the_owner_of_each_shard(cluster, origin, key):
    origin.put(key, shard(20))
    etl = WDTransform(cluster["a"].client, reverse, "reverse", "", cache="always")
    owner = cluster.ranked(BUCKET, key)[0]
    answers = [curl(cluster[name].url(BUCKET, key, transform_id=etl.uuid)) for name in "abc"]
    assert [(answer.exit, answer.status) for answer in answers] == [(0, 200)] * 3, answers[-1].body[:500]
    assert len({answer.body for answer in answers}) == 1
    assert {name for name in "abc" if cluster[name].runtimes()} == {"a", owner}, "where it was registered it was tried"
    assert len(origin.gets(key)) == 1


def test_objects_are_prefetched_where_they_belong_and_evicted_wherever_they_are(cluster, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    for name in "abc":
        assert cluster[name].client.cache.prefetch(BUCKET, key)["bytes"] == SIZE
    assert origin.bytes_sent(key) == SIZE
    for name in "abc":
        with pytest.raises(NotFound, match="not-there"):
            cluster[name].client.cache.prefetch(BUCKET, "not-there")
    assert cluster[cluster.others(BUCKET, key)[0]].client.cache.evict(BUCKET, key)["evicted"] == 1
    for folder in "xyz":
        cluster["a"].client.put("file://f", f"{key}/{folder}", data)
    told = cluster["b"].client.cache.prefetch("file://f", prefix=f"{key}/")
    assert (told["objects"], told["bytes"]) == (3, 3 * SIZE)
    assert cluster["c"].client.cache.evict("file://f", prefix=f"{key}/")["evicted"] == 3


def test_what_the_caches_hold_is_summed_at_every_gateway(cluster, origin, key):
    def entries() -> list[int]:
        return [cluster[name].client.cache.stat()["entries"] for name in "abc"]

    before = entries()
    for number in range(6):  # some for each of them
        origin.put(f"{number}-{key}", random_bytes(300_000))
        assert curl(cluster["a"].url(BUCKET, f"{number}-{key}")).exit == 0
    eventually(lambda: entries() == [count + 6 for count in before], what="six entries more everywhere")


def test_a_write_whose_owner_hangs_up_is_done_by_the_next(tmp_path):
    """Until it says that it takes the body, nothing of it was sent, and nothing can have been written."""
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        members = {"b": f"http://127.0.0.1:{impostor.getsockname()[1]}"}
        gateway = GatewayProcess(tmp_path / "a", {"file://f": str(tmp_path)}, settings={"cluster.membership": "static"})
        gateway.settings |= {"cluster.name": "a", "cluster.members": json.dumps(members | {"a": gateway.endpoint})}
        theirs = next(
            key for key in map(str, range(100)) if rank("ab", entry_name("object", "file", "f", key), 1) == ["b"]
        )
        heard = Thread(target=hang_up, args=(impostor,))
        heard.start()
        gateway.start()
        try:
            gateway.client.put("file://f", theirs, b"data")
            assert (tmp_path / theirs).read_bytes() == b"data"
            heard.join(10)
            assert not heard.is_alive(), "it was asked first"
        finally:
            gateway.close()


def hang_up(server: socket.socket) -> None:
    """Take one request, and close without an answer."""
    connection, _ = server.accept()
    with connection:
        connection.recv(1 << 16)


def test_the_cluster_says_who_is_there(cluster):
    said = json.loads(curl(f"{cluster['b'].endpoint}/v1/cluster").body)
    assert said["me"] == "b"
    assert said["members"] == [{"name": name, "url": cluster[name].endpoint, "live": True} for name in "abc"]
