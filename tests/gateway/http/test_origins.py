"""Web servers with odd habits, seen through a whole gateway: cold, warm, and asked again."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from gateway_process import GatewayProcess, eventually, running_gateway
from raw_answers import ENDLESS, answering
from readers import curl
from servers_faulty import Fault, FaultyOrigin
from yarl import URL

from shardgate import Client, NotFound, UpstreamFailed
from shardgate_gateway.cache.peer import PeerBucket
from shardgate_gateway.cluster.connection import PeerClient
from shardgate_gateway.cluster.membership import Member
from shardgate_gateway.settings import UpstreamSettings
from shardgate_gateway.stores.http_origin import HttpOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "http://w"
SMALL = os.urandom(1000)
LARGE = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as origin:
        yield origin


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, origin: FaultyOrigin) -> Iterator[GatewayProcess]:
    bucket = {"where": origin.url, "freshness": "always"}
    with running_gateway(
        tmp_path_factory.mktemp("gateway"), {BUCKET: bucket}, settings={"upstream.attempts": 1}
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy(origin: FaultyOrigin) -> Iterator[None]:
    yield
    origin.head = Fault()


ETAGS = {
    "plain": '"v1"',
    "weak": 'W/"v1"',
    "comma": '"a,b, c"',
    "quotes": '"a"b"c"',
    "percent": '"100%25%zz%"',
    "blanks": '"  a b  "',
    "UTF-8": '"é世"'.encode().decode("latin-1"),
    "no text": '"\xe9\xff"',
    "backslash": '"a\\"',
    "unquoted": "abc",
    "long": f'"{"x" * 4000}"',
    "long and no text": f'"{chr(0xE9) * 4000}"',
}


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", ETAGS)
def test_any_etag_is_a_version_cold_and_warm(
    gateway: GatewayProcess, origin: FaultyOrigin, name: str, body: bytes
) -> None:
    key = f"{name}-{len(body)}"
    headers: dict[str, str | None] = {"ETag": ETAGS[name]}
    origin.put(key, body)
    origin.head = Fault(headers=headers)
    origin.fail(key, Fault(headers=headers), times=100)
    url = gateway.url(BUCKET, key)
    cold, warm = curl(url), curl(url)
    assert cold.body == warm.body == body
    # A body goes out before it is an entry, and who comes in between joins its fill.
    eventually(lambda: curl(url).headers["x-shardgate-cache"] == "hit", what="a hit")
    etag = warm.headers["etag"]
    assert etag == cold.headers["etag"] == curl(url, "-I").headers["etag"]
    assert etag.isascii()
    assert len(etag) < 2000
    assert etag.startswith("W/") == (name in {"weak", "unquoted"})
    assert curl(url, "-H", f"If-None-Match: {etag}").status == 304
    assert curl(url, "-H", 'If-None-Match: "other"').status == 200
    strong = not etag.startswith("W/")
    assert curl(url, "-H", f"If-Match: {etag}").status == (200 if strong else 412)
    part = curl(url, "-r", "10-19", "-H", f"If-Range: {etag}")
    assert (part.status, part.body) == ((206, body[10:20]) if strong else (200, body))
    with Client(gateway.endpoint) as client:
        assert client.get(BUCKET, key) == body
        assert client.head(BUCKET, key).size == len(body)
    assert len(origin.gets(key)) == 1
    origin.heal(key)
    origin.put(key, body[::-1], etag="v2")
    origin.head = Fault()
    assert curl(url).body == body[::-1]


@pytest.mark.parametrize("name", ETAGS)
async def test_any_etag_is_the_same_version_at_another_gateway(
    gateway: GatewayProcess, origin: FaultyOrigin, name: str
) -> None:
    headers: dict[str, str | None] = {"ETag": ETAGS[name]}
    origin.put(f"shared-{name}", SMALL)
    origin.head = Fault(headers=headers)
    origin.fail(f"shared-{name}", Fault(headers=headers), times=100)
    store = HttpOrigin(URL(origin.url), UpstreamSettings(), label=BUCKET)
    client = PeerClient(1.0)
    peer = PeerBucket(client, Member("peer", gateway.endpoint), "http", "w", lambda: "t", only_cached=False)
    try:
        found, theirs = await store.head(f"shared-{name}"), await peer.head(f"shared-{name}")
        assert (theirs.etag, theirs.weak, theirs.size) == (found.etag, found.weak, found.size)
        stream = await peer.get(f"shared-{name}", start=3, if_match=found.etag)
        assert b"".join([bytes(chunk) async for chunk in stream.chunks]) == SMALL[3:]
        await stream.aclose()
    finally:
        await store.aclose()
        await peer.aclose()
        client.close()


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 500])
def test_a_cached_object_is_not_lost_to_a_head_that_says_no(
    gateway: GatewayProcess, origin: FaultyOrigin, status: int
) -> None:
    key = f"refused-{status}"
    origin.put(key, SMALL)
    origin.head = Fault(status=status)
    assert [curl(gateway.url(BUCKET, key)).body for _ in range(3)] == [SMALL] * 3
    with Client(gateway.endpoint) as client:
        assert client.head(BUCKET, key).size == len(SMALL)


def test_a_cached_object_is_fetched_once_though_heads_say_less_than_gets(
    gateway: GatewayProcess, origin: FaultyOrigin
) -> None:
    origin.put("terse", LARGE)
    origin.head = Fault(headers={"ETag": None, "Last-Modified": None, "Content-Length": None})
    answers = [curl(gateway.url(BUCKET, "terse")) for _ in range(3)]
    assert [answer.body for answer in answers] == [LARGE] * 3
    assert [answer.headers["x-shardgate-cache"] for answer in answers] == ["miss", "hit", "hit"]


def test_an_object_that_is_gone_is_gone(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("gone", SMALL)
    assert curl(gateway.url(BUCKET, "gone")).body == SMALL
    del origin.objects["gone"]
    assert curl(gateway.url(BUCKET, "gone")).status == 404


def test_an_error_of_head_says_its_cause(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("encoded", SMALL)
    encoded = Fault(headers={"Content-Encoding": "gzip"})
    origin.head = encoded
    origin.fail("encoded", encoded, times=100)
    with Client(gateway.endpoint) as client:
        with pytest.raises(UpstreamFailed, match="http://w/encoded: the server sent it encoded as gzip") as caught:
            client.head(BUCKET, "encoded")
        assert caught.value.code == "upstream_corrupt"
        assert "gzip off" in caught.value.hint
        assert caught.value.request_id
        with pytest.raises(NotFound, match="http://w/missing: the server answered 404"):
            client.head(BUCKET, "missing")
    answer = curl(gateway.url(BUCKET, "missing"), "-I")
    assert answer.headers["x-shardgate-error"] == "code=not_found&message=http://w/missing: the server answered 404"


def test_a_body_that_only_a_close_ends_is_neither_sent_nor_cached(tmp_path: Path) -> None:
    kinds = ("HTTP/1.0 without a length", "HTTP/1.1 without a length", "xchunked")
    with ExitStack() as stack:
        buckets = {
            f"http://w{number}": stack.enter_context(answering(ENDLESS[kind])) for number, kind in enumerate(kinds)
        }
        gateway = stack.enter_context(running_gateway(tmp_path, buckets, settings={"upstream.attempts": 1}))
        for bucket in buckets:
            for _ in range(2):
                told = curl(gateway.url(bucket, "a.tar"))
                assert (told.status, json.loads(told.body)["code"]) == (502, "upstream_corrupt")
