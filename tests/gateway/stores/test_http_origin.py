"""A web server that answers HEAD worse than GET, ends bodies by closing, or reads paths in ways of its own."""

from __future__ import annotations

import asyncio
import os

import pytest
import raw_answers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_answers import CUT, ENDING, ENDLESS, answering
from servers_faulty import Fault

from shardgate_gateway.errors import (
    Forbidden,
    GatewayError,
    NotFound,
    UpstreamCorrupt,
    UpstreamError,
    UpstreamUnavailable,
)
from shardgate_gateway.stores.base import ObjectMeta

DATA = os.urandom(100_000)
KEY = "train/a.tar"


@pytest.fixture
async def store(origin, open_bucket):
    origin.put(KEY, DATA, etag="v1")
    store = open_bucket(origin.url)
    yield store
    await store.aclose()


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
async def test_a_body_that_only_a_close_ends_is_never_whole(open_bucket, helpers, answer):
    with answering(answer) as url:
        store = open_bucket(url)
        with pytest.raises(UpstreamCorrupt):
            await helpers["drain"](await store.get(KEY))
        await store.aclose()


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
async def test_a_body_whose_end_is_told_is_read(open_bucket, helpers, answer):
    with answering(answer) as url:
        store = open_bucket(url)
        assert await helpers["drain"](await store.get(KEY)) == raw_answers.BODY
        await store.aclose()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_bytes_that_came_before_a_break_are_given_to_a_reader_that_is_late(store, origin, ending, chunked):
    """They are progress: a store that breaks each transfer after some bytes is read to the end, however busy we are."""
    origin.fail(KEY, Fault(after=20_000, ending=ending, chunked=chunked))
    stream = await store.get(KEY)
    content = stream.chunks._response.content
    async with asyncio.timeout(20):
        while content.exception() is None:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.01)
    assert await anext(stream.chunks) == DATA[:20_000]
    with pytest.raises(UpstreamError):
        await anext(stream.chunks)
    await stream.aclose()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 429, 451, 500, 501, 502, 503, 203, 204])
async def test_a_head_that_says_no_is_not_believed_where_get_says_yes(store, origin, status):
    origin.head = Fault(status=status)
    meta = await store.head(KEY)
    assert (meta.size, meta.etag, meta.weak) == (len(DATA), "v1", False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"ETag": None},
        {"ETag": None, "Last-Modified": None},
        {"ETag": 'W/"v1"'},
        {"Content-Length": None},
        {"Content-Length": "0"},
        {"Last-Modified": None},
    ],
    ids=str,
)
async def test_a_head_that_says_less_than_get_is_not_believed(store, origin, helpers, headers):
    await helpers["drain"](await store.get(KEY))
    origin.head = Fault(headers=headers)
    seen = await store.get(KEY)
    await seen.aclose()
    assert await store.head(KEY) == seen.meta


async def test_a_head_that_says_as_much_as_get_is_enough(store, origin, helpers):
    await helpers["drain"](await store.get(KEY))
    asked = len(origin.gets(KEY))
    assert (await store.head(KEY)).etag == "v1"
    origin.put("no etag", DATA, etag="")
    await helpers["drain"](await store.get("no etag"))
    assert (await store.head("no etag")).weak
    assert len(origin.gets(KEY)) == asked
    assert len(origin.gets("no etag")) == 1


async def test_what_get_refuses_as_well_is_refused(store, origin):
    with pytest.raises(NotFound):
        await store.head("missing")
    origin.head = Fault(status=404)
    origin.fail(KEY, Fault(status=403))
    with pytest.raises(Forbidden, match="answered 403"):
        await store.head(KEY)


async def test_a_head_that_breaks_the_connection_becomes_a_get(open_bucket):
    with answering(b"", ENDING["a length"]) as url:
        store = open_bucket(url)
        assert (await store.head(KEY)).size == len(raw_answers.BODY)
        await store.aclose()


async def test_a_server_that_is_down_is_asked_once(open_bucket, monkeypatch):
    store = open_bucket("http://127.0.0.1:9")
    with pytest.raises(UpstreamUnavailable):
        await store.head(KEY)
    await store.aclose()


@pytest.mark.parametrize("key", ["c++-000.tar", "a;b=c&d,e.tar", "a b.tar", "ü%2B.tar", "x/$!'()*:@~.tar", "a?b#c.tar"])
async def test_a_key_is_quoted_so_that_no_server_reads_it_differently(origin, open_bucket, helpers, key):
    origin.put(f"bucket/{key}", DATA)
    store = open_bucket(f"{origin.url}/bucket")
    assert await helpers["drain"](await store.get(key)) == DATA
    assert (await store.head(key)).size == len(DATA)
    await store.aclose()
    paths = {asked.target for asked in origin.requests}
    assert len(paths) == 1
    assert not set(paths.pop()) & set("+;=&,!$'()*:@?#")


ODD = {
    "a date that overflows": {"Last-Modified": "Sun, 06 Nov 1994 08:49:37 +99999999999999"},
    "the last moment": {"Last-Modified": "Fri, 31 Dec 9999 23:59:59 -1200"},
    "an etag that is no text": {"ETag": '"\xe9\xff"'},
    "an etag with everything": {"ETag": '"a, b%25 "c" \xe9"'},
    "a long etag": {"ETag": f'"{"x" * 4000}"'},
    "a long weak etag": {"ETag": f'W/"{"x" * 4000}"'},
    "a type that is no text": {"Content-Type": "text/\xe9\xff"},
    "a long type": {"Content-Type": "text/" + "x" * 4000},
}


@pytest.mark.parametrize("headers", ODD.values(), ids=ODD)
async def test_an_odd_header_costs_neither_the_object_nor_its_versions(store, origin, helpers, headers):
    origin.head = Fault(headers=headers)
    origin.fail(KEY, Fault(headers=headers), times=3)
    stream = await store.get(KEY)
    assert await helpers["drain"](stream) == DATA
    assert (stream.meta.etag, stream.meta.weak) != ("", False)
    stream.meta.etag.encode()
    again = await store.get(KEY, start=1, if_match=stream.meta.etag)
    assert await helpers["drain"](again) == DATA[1:]
    assert await store.head(KEY) == stream.meta


@pytest.mark.parametrize(
    "location",
    [
        "http://files.example:99999999/x",
        "http://127.0.0.1:99999999/x",
        "http://127.0.0.1:-1/x",
        "http://127.0.0.1:x/x",
        "http://[::1/x",
        "http://\xe9\xff/x",
        "http://" + "a" * 300 + "/x",
        "",
    ],
)
async def test_a_redirect_to_where_nothing_can_be_is_refused(store, origin, location):
    origin.fail(KEY, Fault(status=302, headers={"Location": location}), times=2)
    with pytest.raises(GatewayError, match="redirected"):
        await store.get(KEY)


async def test_a_redirect_to_a_path_that_is_not_ascii_is_followed(store, origin, helpers):
    origin.put("é/b", b"moved")
    origin.fail(KEY, Fault(status=302, headers={"Location": "/é/b".encode().decode("latin-1")}))
    assert await helpers["drain"](await store.get(KEY)) == b"moved"


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
async def test_a_chunked_body_that_was_cut_anywhere_is_not_whole(open_bucket, helpers, answer):
    with answering(answer) as url:
        store = open_bucket(url)
        with pytest.raises(UpstreamUnavailable):
            await helpers["drain"](await store.get(KEY))
        await store.aclose()


LINES = st.one_of(
    st.binary(max_size=80).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from(
        (
            b"Content-Length: 5",
            b"Content-Length: 7",
            b"Content-Length: " + b"9" * 400,
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: \xe9",
            b"Content-Range: bytes 0-4/5",
            b"Content-Range: bytes 0-4/" + b"9" * 400,
            b"Content-Encoding: \xff",
            b"Content-Type: \xe9/\xff; charset=\xff",
            b'ETag: "\xe9"',
            b"Last-Modified: Fri, 31 Dec 9999 23:59:59 -1200",
            b"Retry-After: Fri, 31 Dec 9999 23:59:59 -1200",
            b"Location: http://127.0.0.1:99999999/",
            b"Location: \xe9\xff",
            b"Location: //[",
            b"Set-Cookie: \xe9=\xff; Path=\xe9; Max-Age=" + b"9" * 400,
            b"Link: <\xe9>; rel=\xff",
            b"X: " + b"x" * 100_000,
        )
    ),
)


@given(
    st.sampled_from(
        (b"200 OK", b"206 \xe9", b"302 Found", b"307 x", b"404 \xff", b"416 x", b"503 x", b"999 x", b"99 x")
    ),
    st.lists(LINES, max_size=5),
    st.sampled_from((b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"")),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
async def test_no_answer_is_a_bug_of_ours(open_bucket, helpers, status, lines, body):
    head = b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"Connection: close"])
    with answering(head + b"\r\n\r\n" + body) as url:
        store = open_bucket(url)
        for ask in (store.head(KEY), store.get(KEY), store.get(KEY, start=0, end=3)):
            try:
                found = await ask
                if not isinstance(found, ObjectMeta):
                    await helpers["drain"](found)
            except GatewayError as error:
                error.message.encode()
        await store.aclose()
