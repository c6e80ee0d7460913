"""Every kind of store behind the gateway, written, listed, read whole, in parts and by parallel ranges, and emptied."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from readers import curl
from shards import random_bytes

from servers import start_azurite, start_fake_gcs, start_minio, start_nginx, start_versitygw
from shardgate import GatewayError, NotFound

PARALLEL = {"cache.part_bytes": 1 << 20, "cache.parallel_from_bytes": 3 << 20, "cache.memory_object_bytes": 1 << 16}
OBJECTS = {
    "train/000000.tar": random_bytes(9_000_000, 1),
    "train/000001.tar": random_bytes(700_000, 2),
    "val/ä b%20#?.tar": random_bytes(1000, 3),
    "empty": b"",
}
"""The first is fetched in nine parallel ranges and uploaded in more than one part."""


@contextmanager
def versitygw(tmp_path):
    with start_versitygw(tmp_path / "objects") as server:
        server.create_bucket("bucket")
        yield "aws://store", server.where("bucket")


@contextmanager
def minio(tmp_path):
    with start_minio(tmp_path / "objects") as server:
        server.create_bucket("bucket")
        yield "aws://store", server.where("bucket")


@contextmanager
def azurite(tmp_path):
    with start_azurite(tmp_path / "objects") as server:
        server.create_container("bucket")
        yield "az://store", server.where("bucket")


@contextmanager
def nginx(tmp_path):
    (tmp_path / "objects").mkdir()
    with start_nginx(tmp_path / "objects") as server:
        yield "http://store", server.url


@contextmanager
def folder(tmp_path):
    (tmp_path / "objects").mkdir()
    yield "file://store", str(tmp_path / "objects")


@contextmanager
def memory(tmp_path):
    yield "mem://store", "mem://"


SERVED = [pytest.param(start, marks=pytest.mark.servers) for start in (versitygw, minio, azurite, nginx)]


@pytest.mark.parametrize("start", [folder, memory, *SERVED])
def test_a_store_keeps_what_it_is_given_and_the_gateway_gives_exactly_that(start, start_gateway, tmp_path):
    with start(tmp_path) as (bucket, where):
        gateway = start_gateway({bucket: where}, settings=PARALLEL)
        client = gateway.client
        for key, data in OBJECTS.items():
            client.put(bucket, key, data)
        for key, data in OBJECTS.items():
            read_in_every_way(gateway, bucket, key, data)
        if start is not nginx:  # HTTP has no listing
            listed = {entry.name: entry.size for entry in client.list(bucket)}
            assert listed == {key: len(data) for key, data in OBJECTS.items()}
            assert [entry.name for entry in client.list(bucket, "train/")] == ["train/000000.tar", "train/000001.tar"]
        else:
            with pytest.raises(GatewayError, match="no listing"):
                next(client.list(bucket))
        overwrite_and_delete(gateway, bucket, "train/000001.tar")


def read_in_every_way(gateway, bucket, key, data):
    """Cold, warm, described, in part, and conditionally."""
    url = gateway.url(bucket, key)
    for _ in range(2):
        answer = curl(url)
        assert (answer.exit, answer.status) == (0, 200)
        assert answer.body == data
        assert answer.headers["content-length"] == str(len(data))
    head = curl(url, "-I")
    assert (head.status, head.headers["etag"]) == (200, answer.headers["etag"])
    assert curl(url, "-H", f"If-None-Match: {answer.headers['etag']}").status == 304
    if data:
        middle = len(data) // 2
        part = curl(url, "-r", f"{middle}-{middle + 99}")
        assert (part.status, part.body) == (206, data[middle : middle + 100])


def overwrite_and_delete(gateway, bucket, key):
    """What went through the gateway is true at once, whatever the rule of freshness."""
    client, url = gateway.client, gateway.url(bucket, key)
    before = curl(url).headers["etag"]
    client.put(bucket, key, b"new")
    after = curl(url)
    assert after.body == b"new"
    assert after.headers["etag"] != before
    assert curl(url, "-X", "PUT", "-H", f"If-Match: {before}", "--data-binary", "lost update").status == 412
    client.delete(bucket, key)
    assert curl(url).status == 404
    with pytest.raises(NotFound):
        client.delete(bucket, key)


@pytest.mark.servers
def test_a_gcs_bucket_is_read_and_listed(start_gateway, tmp_path):
    """The fake server refuses obstore's uploads, so it is filled by its own API."""
    with start_fake_gcs(tmp_path / "objects") as server:
        server.create_bucket("bucket")
        for key, data in OBJECTS.items():
            server.upload("bucket", key, data)
        gateway = start_gateway({"gcp://store": server.where("bucket")}, settings=PARALLEL)
        for key, data in OBJECTS.items():
            read_in_every_way(gateway, "gcp://store", key, data)
        listed = {entry.name: entry.size for entry in gateway.client.list("gcp://store")}
        assert listed == {key: len(data) for key, data in OBJECTS.items()}
