"""A new owner takes an object over from the gateway that had it before, and from the store what that one has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from servers_faulty import Fault, FaultyOrigin
from shards import random_bytes
from yarl import URL

from shardgate_gateway.cache.peer import InheritedSource
from shardgate_gateway.cache.source import Freshness, StoreSource
from shardgate_gateway.errors import NotFound
from shardgate_gateway.settings import UpstreamSettings
from shardgate_gateway.stores.http_origin import HttpOrigin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEY = "a.tar"
DATA = random_bytes(300_000)


@pytest.fixture
def peer() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as running:
        yield running


@pytest.fixture
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as running:
        running.put(KEY, DATA, etag="v2")
        yield running


@pytest.fixture
async def source(peer: FaultyOrigin, origin: FaultyOrigin) -> AsyncIterator[InheritedSource]:
    stores = [HttpOrigin(URL(each.url), UpstreamSettings(), label="http://b") for each in (peer, origin)]
    yield InheritedSource(StoreSource(stores[1], "http", "b", KEY, Freshness.immutable()), stores[0], KEY)
    for store in stores:
        await store.aclose()


async def read(source: InheritedSource, *, start: int = 0, if_match: str | None = None) -> bytes:
    stream = await source.open(start=start, if_match=if_match)
    try:
        return b"".join([bytes(chunk) async for chunk in stream.chunks])
    finally:
        await stream.aclose()


async def test_what_the_one_before_has_is_not_fetched_again(
    source: InheritedSource, peer: FaultyOrigin, origin: FaultyOrigin
) -> None:
    peer.put(KEY, DATA, etag="v2")
    assert await read(source) == DATA
    assert await read(source, start=100_000, if_match="v2") == DATA[100_000:]
    assert origin.gets(KEY) == []


async def test_what_it_has_not_comes_from_the_store(source: InheritedSource, origin: FaultyOrigin) -> None:
    assert await read(source) == DATA
    assert origin.bytes_sent(KEY) == len(DATA)


async def test_an_old_version_is_not_taken_over(
    source: InheritedSource, peer: FaultyOrigin, origin: FaultyOrigin
) -> None:
    """That gateway may not have heard of a write yet."""
    peer.put(KEY, random_bytes(300_000, 1), etag="v1")
    assert await read(source) == DATA
    assert origin.bytes_sent(KEY) == len(DATA)


async def test_a_version_of_which_nobody_can_be_sure_is_not_taken_over(
    source: InheritedSource, peer: FaultyOrigin, origin: FaultyOrigin
) -> None:
    for server in (peer, origin):
        server.put(KEY, DATA, etag="")
    assert await read(source) == DATA
    assert origin.bytes_sent(KEY) == len(DATA)


async def test_an_object_that_is_gone_is_gone(
    source: InheritedSource, peer: FaultyOrigin, origin: FaultyOrigin
) -> None:
    peer.put(KEY, DATA, etag="v2")
    del origin.objects[KEY]
    with pytest.raises(NotFound):
        await read(source)


async def test_where_the_one_before_is_lost_the_store_goes_on(
    source: InheritedSource, peer: FaultyOrigin, origin: FaultyOrigin
) -> None:
    peer.put(KEY, DATA, etag="v2")
    peer.fail(KEY, Fault(after=100_000, ending="reset"))
    with pytest.raises(Exception, match=KEY):
        await read(source)
    peer.fail(KEY, Fault(status=503), times=10)
    assert await read(source, start=100_000, if_match="v2") == DATA[100_000:]
    assert origin.bytes_sent(KEY) == len(DATA) - 100_000
