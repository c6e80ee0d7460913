"""Real stores behind a bad network (toxiproxy): what breaks is named, and what is only slow is not broken."""

from __future__ import annotations

import os

import pytest
from servers_toxiproxy import start_toxiproxy

from shardgate_gateway.errors import NotFound, UpstreamStalled, UpstreamUnavailable

DATA = os.urandom(2_000_000)

pytestmark = pytest.mark.servers


@pytest.fixture(scope="session")
def toxiproxy(tmp_path_factory):
    with start_toxiproxy(tmp_path_factory.mktemp("network")) as toxiproxy:
        yield toxiproxy


@pytest.fixture(params=["versitygw", "nginx"])
async def network(request, toxiproxy, open_bucket, impatient, helpers):
    """A proxy, and a store behind it that holds `a` and has no connection open yet."""
    server = request.getfixturevalue(request.param)
    proxy = toxiproxy.proxy(server.url)
    where = server.where("bucket", url=proxy.url) if request.param == "versitygw" else proxy.url
    filler, store = open_bucket(where), open_bucket(where, upstream=impatient)
    await filler.put("a", helpers["chunked"](DATA), size=len(DATA))
    await filler.aclose()
    yield proxy, store
    proxy.clear()
    await store.aclose()


async def test_a_connection_cut_after_some_bytes_is_unavailable(network, helpers):
    proxy, store = network
    proxy.toxic("limit_data", bytes=500_000)
    with pytest.raises(UpstreamUnavailable):
        await helpers["drain"](await store.get("a"))
    proxy.clear()
    assert await helpers["drain"](await store.get("a")) == DATA


async def test_a_connection_that_falls_silent_is_stalled(network):
    proxy, store = network
    proxy.toxic("timeout", upstream=True, timeout=0)
    with pytest.raises(UpstreamStalled):
        await store.get("a")


async def test_a_slow_connection_is_only_slow(network, helpers):
    """Longer than the progress timeout in all, but never without a byte for so long."""
    proxy, store = network
    proxy.toxic("bandwidth", rate=1000)
    proxy.toxic("latency", latency=50, jitter=10)
    assert await helpers["drain"](await store.get("a")) == DATA


async def test_a_store_that_is_gone_is_unavailable_and_comes_back(network, helpers):
    proxy, store = network
    proxy.disable()
    with pytest.raises(UpstreamUnavailable):
        await store.get("a")
    proxy.enable()
    assert await helpers["drain"](await store.get("a")) == DATA


async def test_a_put_that_is_cut_off_leaves_what_was_there(network, helpers):
    proxy, store = network
    proxy.toxic("limit_data", upstream=True, bytes=500_000)
    with pytest.raises(UpstreamUnavailable):
        await store.put("new", helpers["chunked"](DATA), size=len(DATA))
    with pytest.raises(UpstreamUnavailable):
        await store.put("a", helpers["chunked"](DATA[::-1]), size=len(DATA))
    proxy.clear()
    assert await helpers["drain"](await store.get("a")) == DATA
    with pytest.raises(NotFound):
        await store.head("new")
