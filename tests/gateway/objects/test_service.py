"""Objects without HTTP: reads, writes and events of one gateway, and writes that belong to another one."""

from __future__ import annotations

import tarfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from gateway_cluster import running_cluster
from readers import curl
from shards import random_bytes, shard

from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.cache.cache import Cache
from shardgate_gateway.cache.reader import as_bytes
from shardgate_gateway.cluster.calls import PeerCalls
from shardgate_gateway.cluster.connection import PeerClient
from shardgate_gateway.cluster.credentials import Credentials
from shardgate_gateway.cluster.membership import Member, StaticMembership
from shardgate_gateway.cluster.peers import Peers
from shardgate_gateway.cluster.popularity import Popularity
from shardgate_gateway.errors import NotFound, UpstreamUnavailable
from shardgate_gateway.objects.buckets import Bucket
from shardgate_gateway.objects.events import Deleted, Written
from shardgate_gateway.objects.ownership import Ownership
from shardgate_gateway.objects.service import Objects
from shardgate_gateway.settings import AuthSettings, BucketSettings, CacheSettings, UpstreamSettings
from shardgate_gateway.stores.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway_cluster import Gateways

KEY = "k" * 40
NAME = "file://f"


class Given:
    """A body that is in memory."""

    def __init__(self, *chunks: bytes, size: int | None = None, ends: bool = True) -> None:
        self.size = size
        self._chunks = chunks
        self._ends = ends

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if not self._ends:
            raise UpstreamUnavailable("its sender broke off")


def bucket_in(folder) -> Bucket:
    folder.mkdir(exist_ok=True)
    settings = BucketSettings(where=str(folder), freshness="immutable")
    return Bucket("file", "f", open_store(NAME, settings, UpstreamSettings()), settings)


@asynccontextmanager
async def objects_in(folder, calls: PeerCalls | None = None) -> AsyncIterator[Objects]:
    cache = Cache(CacheSettings(dir=folder / "cache"), UpstreamSettings())
    await cache.start()
    try:
        yield Objects(cache, Ownership(calls))
    finally:
        await cache.aclose()


@pytest.fixture
async def objects(tmp_path):
    async with objects_in(tmp_path) as objects:
        yield objects


@pytest.fixture
def bucket(tmp_path):
    return bucket_in(tmp_path / "f")


@pytest.fixture
def events(objects):
    seen = []

    async def listener(event):
        seen.append(event)

    objects.listen(listener)
    return seen


async def body(objects, bucket, key) -> bytes:
    reading = await objects.open(bucket, key)
    try:
        return b"".join([bytes(part) async for part in as_bytes(objects.cache._node, reading.parts())])
    finally:
        reading.aclose()


async def test_what_is_written_is_read_from_then_on_and_announced(objects, bucket, events):
    first = await objects.put(bucket, "a/b", Given(b"ol", b"d", size=3), content_type="text/plain")
    assert await body(objects, bucket, "a/b") == b"old"
    second = await objects.put(bucket, "a/b", Given(b"new"))
    assert await body(objects, bucket, "a/b") == b"new"
    assert (await objects.head(bucket, "a/b")).etag == second.etag != first.etag
    assert [meta.key async for page in objects.pages(bucket) for meta in page.objects] == ["a/b"]
    await objects.delete(bucket, "a/b")
    with pytest.raises(NotFound):
        await objects.open(bucket, "a/b")
    assert events == [Written(bucket, "a/b", first), Written(bucket, "a/b", second), Deleted(bucket, "a/b")]


async def test_a_write_that_fails_is_not_announced_and_leaves_the_object_as_it_was(objects, bucket, events):
    await objects.put(bucket, "a", Given(b"old"))
    with pytest.raises(UpstreamUnavailable, match="its sender broke off"):
        await objects.put(bucket, "a", Given(b"ne", ends=False))
    with pytest.raises(NotFound):
        await objects.delete(bucket, "never")
    assert await body(objects, bucket, "a") == b"old"
    assert len(events) == 1


async def test_a_listener_that_fails_changes_nothing_for_the_writer_or_other_listeners(objects, bucket, caplog):
    async def broken(event):
        raise ValueError("no")

    seen = []

    async def listener(event):
        seen.append(event.key)

    objects.listen(broken)
    objects.listen(listener)
    await objects.put(bucket, "a", Given(b"data"))
    assert seen == ["a"]
    assert "a listener failed at Written of file://f/a" in caplog.text


async def test_a_member_is_read_by_opening_its_archive_once(objects, bucket, tmp_path, monkeypatch):
    data = shard(30)
    (tmp_path / "f" / "a.tar").write_bytes(data)
    opened = []
    real = objects.cache.open
    monkeypatch.setattr(objects.cache, "open", lambda source: opened.append(source.label) or real(source))
    with tarfile.open(tmp_path / "f" / "a.tar") as tar:
        for number, name in enumerate(tar.getnames()[:5], 1):
            found = await objects.open_member(bucket, "a.tar", name)
            span = data[found.member.offset : found.member.offset + found.member.size]
            assert span == tar.extractfile(name).read()
            assert len(opened) == number
            found.reading.aclose()
    with pytest.raises(NotFound, match=r"a\.tar has no member 'x'"):
        await objects.open_member(bucket, "a.tar", "x")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Gateways:
    """Two gateways in front of one folder; a third one is in this process."""
    folder = tmp_path_factory.mktemp("objects")
    settings = {"auth.signing_key": KEY}
    (folder / "f").mkdir()
    buckets = {NAME: {"where": str(folder / "f"), "freshness": "immutable"}}
    with running_cluster(folder, buckets, names="ab", settings=settings) as gateways:
        gateways.folder = folder
        yield gateways


@asynccontextmanager
async def beside(cluster: Gateways, tmp_path) -> AsyncIterator[Objects]:
    tokens = Tokens(AuthSettings(signing_key=KEY), "")
    client = PeerClient(1.0)
    members = StaticMembership({name: gateway.endpoint for name, gateway in cluster.items()})
    async with (
        Peers(Member("c", "http://127.0.0.1:9"), members, client, Popularity(0, 1)) as peers,
        objects_in(tmp_path, PeerCalls(peers, Credentials(tokens, "c"))) as objects,
    ):
        yield objects


@pytest.mark.parametrize("sized", [True, False], ids=["with its length", "chunked"])
async def test_work_in_the_background_writes_objects_of_other_gateways_by_these(cluster, tmp_path, sized):
    """And nobody serves older bytes afterwards, whichever gateway did the write."""
    bucket = bucket_in(cluster.folder / "f")
    old, new = random_bytes(200_000, 1), random_bytes(300_000, 2)
    async with beside(cluster, tmp_path) as objects:
        peers = objects.ownership.calls.peers
        owners = set()
        for number in range(12):
            key = f"{sized}-{number}.bin"
            owner = peers.ranked(bucket.source(key).entry_name)[0].name
            owners.add(owner)
            for data in (old, new):
                meta = await objects.put(bucket, key, Given(data[:7], data[7:], size=len(data) if sized else None))
                assert meta.size == len(data)
                for gateway in cluster.values():
                    answer = curl(gateway.url(NAME, key))
                    assert answer.body == data
                    assert answer.headers["etag"] == meta.etag_header, (owner, number)
            await objects.delete(bucket, key)
            assert [curl(gateway.url(NAME, key)).status for gateway in cluster.values()] == [404, 404]
        assert owners == {"a", "b", "c"}


async def test_what_the_owner_refuses_is_raised_where_the_write_began(cluster, tmp_path):
    bucket = bucket_in(cluster.folder / "f")
    async with beside(cluster, tmp_path) as objects:
        for number in range(8):
            with pytest.raises(NotFound, match=f"no-{number}"):
                await objects.delete(bucket, f"no-{number}")
