"""Stores that reset, stall, shorten, encode and change what they send, seen from the far side of the gateway.

There are two good ends: the exact bytes of one version, or a failure that curl and webdataset notice. Cases 1 to 8, 10.
"""

from __future__ import annotations

import gzip
import json
from collections import deque

import pytest
from gateway_process import eventually
from readers import Answer, answered, curl, start_curl, webdataset_samples
from servers_faulty import Fault
from servers_toxiproxy import start_toxiproxy
from shards import random_bytes, shard

from servers import start_minio
from shardgate import TransferIncomplete

SIZE = 3_000_000
"""More than the small objects that are fetched whole before their first byte goes out."""
MANY = 200

BREAKS = {
    "reset mid-body": Fault(after=SIZE // 2, ending="reset"),
    "reset before the first byte": Fault(after=0, ending="reset"),
    "body shorter than its length": Fault(after=SIZE // 3, ending="close"),
    "no last chunk": Fault(after=SIZE // 2, chunked=True, ending="close"),
    "no last chunk after all bytes": Fault(after=SIZE, chunked=True, ending="reset"),
    "stall at 99 %": Fault(after=SIZE * 99 // 100, ending="stall"),
    "503 with Retry-After": Fault(status=503, headers={"Retry-After": "0"}),
    "429 without Retry-After": Fault(status=429),
    "500": Fault(status=500),
}
LIES = {
    "another range than asked": Fault(headers={"Content-Range": f"bytes 7-{SIZE - 1}/{SIZE}"}),
    "another size in Content-Range": Fault(headers={"Content-Range": f"bytes {SIZE // 2}-{SIZE}/{SIZE + 1}"}),
    "200 to a range": Fault(ignore_range=True),
    "the whole body under a 206": Fault(body=random_bytes(SIZE), headers={"Content-Length": str(SIZE)}),
    "no body under a 206": Fault(body=b""),
}


RULES = {
    "b": {},
    "immutable": {"freshness": "immutable"},
    "later": {"freshness": "revalidate", "revalidate_seconds": 3600},
    "due": {"freshness": "revalidate", "revalidate_seconds": 0},
    "always": {"freshness": "always"},
}
NOTICED = {"immutable": "old", "later": "old", "due": "new", "always": "new"}
"""What a reader gets by each rule after the object was changed."""
PARALLEL = {"cache.part_bytes": 1 << 19, "cache.parallel_from_bytes": 1 << 20, "cache.parallel_parts": 3}


@pytest.fixture(scope="module")
def buckets(origin):
    """One faulty server, read by our own HTTP client and by obstore's S3, under every rule of freshness."""
    web = {f"http://{name}": {"where": f"{origin.url}/{name}", **rule} for name, rule in RULES.items()}
    options = f"endpoint={origin.url}&region=us-east-1&skip_signature=true"
    return web | {f"aws://{name}": {"where": f"s3://{name}?{options}", **rule} for name, rule in RULES.items()}


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, buckets):
    return start_shared_gateway(buckets, workers=2)


@pytest.fixture(scope="module")
def parallel_gateway(start_shared_gateway, buckets):
    return start_shared_gateway(buckets, settings=PARALLEL)


@pytest.fixture(params=["http", "aws"])
def provider(request):
    return request.param


def must_be(answer: Answer, *versions: bytes) -> bool:
    """Whole bytes of one version, or a failure: says which, and fails for anything in between."""
    if answer.exit == 0 and answer.status == 200:
        assert answer.body in versions, f"{len(answer.body)} bytes that are no version were sent as whole"
        return True
    if answer.exit == 0:
        problem = json.loads(answer.body)
        assert answer.status >= 400, answer
        assert problem["code"], problem
        assert problem["message"], problem
        assert problem["request_id"] == answer.headers["x-request-id"]
    return False


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS.keys())
def test_a_fetch_that_breaks_once_is_continued_to_the_exact_bytes(gateway, origin, provider, key, fault):
    data = random_bytes(SIZE)
    origin.put(f"b/{key}", data)
    origin.fail(f"b/{key}", fault)
    assert must_be(curl(gateway.url(f"{provider}://b", key)), data)
    assert curl(gateway.url(f"{provider}://b", key)).body == data
    assert len(origin.gets(f"b/{key}")) == 2, "the first try, and one that continues it"


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS.keys())
def test_a_store_that_always_breaks_is_never_taken_for_whole_and_healing_it_is_enough(
    gateway, origin, provider, key, fault
):
    data = random_bytes(SIZE)
    origin.put(f"b/{key}", data)
    origin.fail(f"b/{key}", fault, times=MANY)
    url = gateway.url(f"{provider}://b", key)
    progress_is_made = fault.status is None and (fault.after or 0) > 0
    answer = curl(url)
    if not must_be(answer, data):
        assert data.startswith(answer.body) or answer.status >= 400
    else:
        assert progress_is_made, "whole bytes from a store that sends none"
    origin.heal(f"b/{key}")
    assert must_be(curl(url), data)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_wrong_answer_to_the_range_that_continues_a_fetch_is_not_stitched_in(gateway, origin, provider, key, lie):
    data = random_bytes(SIZE)
    origin.put(f"b/{key}", data)
    origin.fail(f"b/{key}", Fault(after=SIZE // 2, ending="reset"))
    origin.fail(f"b/{key}", lie)
    url = gateway.url(f"{provider}://b", key)
    must_be(curl(url), data)
    assert must_be(curl(url), data), "the lie was told once"


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_in_one_of_many_parallel_ranges_never_reaches_a_reader(parallel_gateway, origin, provider, key, lie):
    data = random_bytes(SIZE)
    origin.put(f"b/{key}", data)
    url = parallel_gateway.url(f"{provider}://b", key)
    origin.fail(f"b/{key}", Fault())
    origin.fail(f"b/{key}", lie, times=2)
    must_be(curl(url), data)
    assert must_be(curl(url), data)
    assert len(origin.gets(f"b/{key}")) >= 3, "the object was fetched by parallel ranges"


def test_an_encoded_body_is_not_taken_for_the_object(gateway, origin, provider, key):
    data = shard(20)
    encoded = gzip.compress(data)
    origin.put(f"b/{key}", data)
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(encoded))}
    origin.fail(f"b/{key}", Fault(body=encoded, headers=headers), times=MANY)
    url = gateway.url(f"{provider}://b", key)
    must_be(curl(url), data)
    must_be(curl(url, "-H", "Accept-Encoding: gzip"), data)
    origin.heal(f"b/{key}")
    assert must_be(curl(url), data)


@pytest.mark.parametrize("parts", ["gateway", "parallel_gateway"], ids=["one stream", "parallel ranges"])
@pytest.mark.parametrize("break_after", [None, SIZE // 4], ids=["unbroken", "broken after the change"])
def test_an_object_overwritten_while_it_is_fetched_is_never_mixed(request, origin, provider, key, parts, break_after):
    old, new = random_bytes(SIZE, 1), random_bytes(SIZE, 2)
    origin.put(f"always/{key}", old, etag="old")
    change = Fault(after=break_after, ending="reset", then=lambda: origin.put(f"always/{key}", new, etag="new"))
    origin.fail(f"always/{key}", change)
    url = request.getfixturevalue(parts).url(f"{provider}://always", key)
    must_be(curl(url), old, new)
    assert curl(url).body == new


def test_webdataset_raises_when_the_store_breaks_off_for_good(gateway, origin, provider, key):
    """Cut at a member's end, where a tar reader alone would see the regular end of an archive."""
    data = shard(200)
    cut = 512 * (len(data) // 512 // 2)
    origin.put(f"b/{key}", data)
    origin.fail(f"b/{key}", Fault(after=cut, ending="close"))
    origin.fail(f"b/{key}", Fault(status=503, headers={"Retry-After": "0"}), times=MANY)
    samples = webdataset_samples(gateway.url(f"{provider}://b", key))
    assert next(samples)["__key__"] == "000000"
    with pytest.raises(TransferIncomplete, match="broke off"):
        deque(samples, 0)


def test_a_storm_of_503_is_ridden_out_and_what_it_says_about_time_is_respected(gateway, origin, provider, key):
    data = random_bytes(SIZE)
    origin.put(f"b/{key}", data)
    origin.fail(f"b/{key}", Fault(status=503, headers={"Retry-After": "1"}), times=3)
    assert must_be(curl(gateway.url(f"{provider}://b", key)), data)
    assert len(origin.gets(f"b/{key}")) == 4


def test_a_storm_without_end_is_told_as_503_with_a_time_to_come_back(gateway, origin, provider, key):
    origin.put(f"b/{key}", b"data")
    origin.fail(f"b/{key}", Fault(status=503, headers={"Retry-After": "0"}), times=MANY)
    answer = curl(gateway.url(f"{provider}://b", key))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 0
    assert "503" in json.loads(answer.body)["message"]


@pytest.mark.parametrize(("rule", "expected"), NOTICED.items())
def test_an_object_overwritten_behind_the_gateways_back_is_noticed_as_its_bucket_says(
    gateway, origin, provider, key, rule, expected
):
    versions = {"old": random_bytes(SIZE, 1), "new": random_bytes(SIZE + 7, 2)}
    url = gateway.url(f"{provider}://{rule}", key)
    origin.put(f"{rule}/{key}", versions["old"], etag="old")
    assert curl(url).body == versions["old"]
    origin.put(f"{rule}/{key}", versions["new"], etag="new")
    for _ in range(6):  # both workers
        answer = curl(url)
        assert answer.body == versions[expected]
        assert answer.headers["etag"] == f'"{expected}"'
        assert curl(url, "-I").headers["etag"] == f'"{expected}"'


@pytest.mark.parametrize(("rule", "expected"), NOTICED.items())
def test_an_object_deleted_behind_the_gateways_back_is_noticed_as_its_bucket_says(
    gateway, origin, provider, key, rule, expected
):
    data = random_bytes(SIZE)
    url = gateway.url(f"{provider}://{rule}", key)
    origin.put(f"{rule}/{key}", data)
    assert curl(url).body == data
    del origin.objects[f"{rule}/{key}"]
    for _ in range(6):
        answer = curl(url)
        assert answer.status == (200 if expected == "old" else 404)
        assert must_be(answer, data) == (expected == "old")


@pytest.mark.servers
def test_a_network_that_cuts_every_connection_only_costs_tries(start_gateway, tmp_path):
    """Each connection to a real store dies after 1 MB; the object has 8."""
    data = random_bytes(8_000_000)
    with start_minio(tmp_path / "minio") as store, start_toxiproxy(tmp_path) as network:
        store.create_bucket("bucket")
        proxy = network.proxy(store.url)
        gateway = start_gateway({"aws://bucket": store.where("bucket", url=proxy.url)})
        gateway.client.put("aws://bucket", "a.bin", data)
        proxy.toxic("limit_data", bytes=1_000_000)
        assert must_be(curl(gateway.url("aws://bucket", "a.bin")), data)


@pytest.mark.servers
def test_a_store_that_goes_away_in_the_middle_breaks_the_readers_off_and_is_found_again(start_gateway, tmp_path):
    data = random_bytes(20_000_000)
    with start_minio(tmp_path / "minio") as store, start_toxiproxy(tmp_path) as network:
        store.create_bucket("bucket")
        proxy = network.proxy(store.url)
        gateway = start_gateway({"aws://bucket": store.where("bucket", url=proxy.url)})
        gateway.client.put("aws://bucket", "a.bin", data)
        proxy.toxic("bandwidth", rate=4_000)
        part = tmp_path / "part"
        readers = [start_curl(gateway.url("aws://bucket", "a.bin"), "-o", str(part) + str(i)) for i in range(3)]
        eventually(lambda: all((tmp_path / f"part{i}").exists() for i in range(3)), what="the first bytes")
        proxy.disable()
        assert all(answered(reader).exit != 0 for reader in readers)
        proxy.enable()
        proxy.clear()
        assert must_be(curl(gateway.url("aws://bucket", "a.bin")), data)
