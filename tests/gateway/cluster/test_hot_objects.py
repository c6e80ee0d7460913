"""An object that many ask for is kept by several gateways, and still fetched once."""

from __future__ import annotations

import pytest
from gateway_cluster import running_cluster
from readers import curl
from shards import random_bytes

from shardgate import wire

BUCKET = "http://b"
MEMBER = wire.MEMBER_HEADER.lower()
REQUESTS = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, origin):
    tmp_path = tmp_path_factory.mktemp("hot")
    settings = {"cluster.hot_requests": REQUESTS, "cluster.hot_copies": 2}
    files = tmp_path / "files"
    files.mkdir()
    buckets = {BUCKET: origin.url, "file://f": {"where": str(files), "freshness": "immutable"}}
    with running_cluster(tmp_path, buckets, settings=settings) as gateways:
        yield gateways


def heat_up(cluster, bucket, key, data):
    """Ask until the second in rank has a copy; then it answers by itself."""
    second = cluster.ranked(bucket, key)[1]
    for _ in range(REQUESTS + 1):
        assert curl(cluster[second].url(bucket, key)).body == data
    assert MEMBER not in curl(cluster[second].url(bucket, key)).headers


@pytest.mark.parametrize("size", [2_000_000, 1000], ids=["large", "small"])
def test_the_second_in_rank_gets_a_copy_from_the_owner_and_the_third_asks_both(cluster, origin, key, size):
    data = random_bytes(size)
    origin.put(key, data, etag="odd|%1")
    heat_up(cluster, BUCKET, key, data)
    owner, second, third = cluster.ranked(BUCKET, key)
    asked = set()
    for _ in range(40):
        answer = curl(cluster[third].url(BUCKET, key))
        assert answer.body == data
        asked.add(answer.headers.get(MEMBER))
    assert asked == {owner, second}
    assert origin.bytes_sent(key) == size
    etags = {curl(cluster[name].url(BUCKET, key)).headers["etag"] for name in "abc"}
    assert len(etags) == 1, "a copy is the same version under the same name"
    ranged = curl(cluster[second].url(BUCKET, key), "-r", "100-299")
    assert (ranged.status, ranged.body) == (206, data[100:300])


@pytest.mark.parametrize("first", range(3), ids=["owner", "second", "third"])
def test_a_write_takes_the_copies_back(cluster, key, first):
    """The second asks the owner for its copy, and the owner asks the second for what it may have: neither may wait."""
    old, new = random_bytes(300_000, 1), random_bytes(300_000, 2)
    cluster["a"].client.put("file://f", key, old)
    heat_up(cluster, "file://f", key, old)
    ranked = cluster.ranked("file://f", key)
    cluster[ranked[2]].client.put("file://f", key, new)
    for name in (ranked[first:] + ranked[:first]) * 2:
        assert curl(cluster[name].url("file://f", key)).body == new


def test_copies_outlive_the_owner(cluster, origin, key):
    data = random_bytes(1_000_000)
    origin.put(key, data)
    heat_up(cluster, BUCKET, key, data)
    owner, second, third = cluster.ranked(BUCKET, key)
    cluster[owner].kill()
    for name in (second, third):
        assert curl(cluster[name].url(BUCKET, key)).body == data
    assert origin.bytes_sent(key) == len(data)
    cluster[owner].start()
