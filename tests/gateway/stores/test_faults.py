"""A store that lies, stalls and breaks off, met over plain HTTP and over S3: no fault reads as a whole object."""

from __future__ import annotations

import os

import pytest
from servers_faulty import Fault

from shardgate_gateway.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    PreconditionFailed,
    UpstreamCorrupt,
    UpstreamError,
    UpstreamStalled,
    UpstreamUnavailable,
)

DATA = os.urandom(3_000_000)
KEY = "train/a.tar"


@pytest.fixture(params=["http", "s3"])
def where(request, origin):
    origin.put(f"bucket/{KEY}", DATA, etag="v1")
    return {
        "http": f"{origin.url}/bucket",
        "s3": f"s3://bucket?endpoint={origin.url}&skip_signature=true&region=us-east-1",
    }[request.param]


@pytest.fixture
async def store(where, open_bucket):
    store = open_bucket(where)
    yield store
    await store.aclose()


@pytest.fixture
async def impatient_store(where, open_bucket, impatient):
    """Waits one second for a byte."""
    store = open_bucket(where, upstream=impatient)
    yield store
    await store.aclose()


@pytest.fixture
async def http_store(origin, open_bucket):
    origin.put(f"bucket/{KEY}", DATA, etag="v1")
    store = open_bucket(f"{origin.url}/bucket")
    yield store
    await store.aclose()


@pytest.fixture
def fail(origin):
    return lambda times=1, **how: origin.fail(f"bucket/{KEY}", Fault(**how), times=times)


@pytest.fixture
def read(helpers):
    async def read(store, **how):
        return await helpers["drain"](await store.get(KEY, **how))

    return read


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("after", [0, 1, 2_000_000, len(DATA) - 1])
async def test_a_body_that_breaks_off_raises_and_the_next_one_is_whole(store, fail, read, ending, after):
    fail(after=after, ending=ending)
    with pytest.raises(UpstreamUnavailable, match=KEY):
        await read(store)
    assert await read(store) == DATA


async def test_a_broken_body_is_not_resumed_behind_our_back(store, origin, fail, read):
    fail(after=1_000_000)
    with pytest.raises(UpstreamUnavailable):
        await read(store)
    assert len(origin.gets(f"bucket/{KEY}")) == 1


async def test_a_body_that_stalls_at_99_percent_is_named_stalled(impatient_store, fail, read):
    fail(after=len(DATA) * 99 // 100, ending="stall")
    with pytest.raises(UpstreamStalled, match=KEY) as caught:
        await read(impatient_store)
    assert caught.value.hint


async def test_an_answer_that_never_comes_is_named_stalled(impatient_store, origin, fail, read):
    fail(before="stall")
    with pytest.raises(UpstreamStalled, match=KEY):
        await read(impatient_store)


async def test_a_slow_reader_is_no_stall(impatient_store, helpers):
    """The client waits longer than the progress timeout between two reads, while the store would send."""
    import asyncio

    stream = await impatient_store.get(KEY)
    chunks = aiter(stream.chunks)
    received = bytes(await anext(chunks))
    await asyncio.sleep(1.5)
    async for chunk in chunks:
        received += chunk
    await stream.aclose()
    assert received == DATA


async def test_a_chunked_body_without_its_last_chunk_raises(http_store, fail, read):
    fail(chunked=True, after=len(DATA))
    with pytest.raises(UpstreamUnavailable, match=KEY):
        await read(http_store)


async def test_a_chunked_body_of_unknown_size_is_read_to_its_end(http_store, fail, read):
    fail(chunked=True, times=2)
    assert await read(http_store) == DATA
    stream = await http_store.get(KEY)
    assert (stream.meta.size, stream.end) == (None, None)
    await stream.aclose()


async def test_s3_without_a_length_is_refused(origin, open_bucket, fail, read):
    origin.put(f"bucket/{KEY}", DATA)
    store = open_bucket(f"s3://bucket?endpoint={origin.url}&skip_signature=true&region=us-east-1")
    fail(chunked=True)
    with pytest.raises(UpstreamCorrupt, match=KEY) as caught:
        await read(store)
    assert "encoding" in caught.value.hint


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_store_that_refuses_is_unavailable(store, fail, read, status):
    fail(status=status)
    with pytest.raises(UpstreamUnavailable, match=str(status)):
        await read(store)


@pytest.mark.parametrize(
    ("retry_after", "low", "high"),
    [("7", 7, 7), ("0", 0, 0), ("Fri, 31 Dec 2100 23:59:59 GMT", 1e6, 1e10), ("soon", None, None)],
)
async def test_retry_after_is_passed_on(http_store, fail, read, retry_after, low, high):
    fail(status=503, headers={"Retry-After": retry_after})
    with pytest.raises(UpstreamUnavailable) as caught:
        await read(http_store)
    assert caught.value.retry_after is None if low is None else low <= caught.value.retry_after <= high


@pytest.mark.parametrize(
    ("status", "error"), [(401, Forbidden), (403, Forbidden), (404, NotFound), (400, BadRequest), (418, UpstreamError)]
)
async def test_other_refusals_say_what_they_are(http_store, fail, read, status, error):
    fail(status=status)
    with pytest.raises(error, match=KEY):
        await read(http_store)


@pytest.mark.parametrize(("status", "error"), [(401, Forbidden), (403, Forbidden), (404, NotFound), (400, BadRequest)])
async def test_other_refusals_of_s3_say_what_they_are(store, fail, read, status, error):
    fail(status=status)
    with pytest.raises(error, match=KEY):
        await read(store)


async def test_an_object_overwritten_between_two_ranges_is_another_version(store, origin, read):
    first = await read(store, end=1_000_000, if_match="v1")
    origin.put(f"bucket/{KEY}", DATA[::-1], etag="v2")
    with pytest.raises(PreconditionFailed, match=KEY):
        await read(store, start=len(first), if_match="v1")


async def test_an_object_overwritten_while_it_is_sent_breaks_off(store, origin, fail, read):
    fail(after=1_000_000, then=lambda: origin.put(f"bucket/{KEY}", DATA[::-1], etag="v2"))
    with pytest.raises(UpstreamUnavailable):
        await read(store, if_match="v1")


async def test_a_range_answered_by_another_range_is_corrupt(store, fail, read):
    for lie in ("bytes 0-89/3000000", "bytes 10-98/3000000", "bytes 10-100/3000000", "bytes 10-99/50", "bytes */3", ""):
        fail(headers={"Content-Range": lie})
        with pytest.raises(UpstreamCorrupt, match=KEY) as caught:
            await read(store, start=10, end=100)
        assert "range" in caught.value.hint


async def test_a_range_answered_without_content_range_is_corrupt(store, fail, read):
    fail(headers={"Content-Range": None})
    with pytest.raises(UpstreamCorrupt, match=KEY):
        await read(store, start=10, end=100)


async def test_the_whole_object_for_a_range_is_refused_unless_pinned(store, fail, read):
    fail(ignore_range=True)
    with pytest.raises(UpstreamCorrupt, match=KEY):
        await read(store, start=10, end=100)


async def test_a_web_server_without_ranges_is_skipped_forward_when_the_version_is_pinned(http_store, fail, read):
    fail(ignore_range=True, times=4)
    assert await read(http_store, start=1_500_000, if_match="v1") == DATA[1_500_000:]
    assert await read(http_store, start=10, end=100, if_match="v1") == DATA[10:100]
    assert await read(http_store, end=100) == DATA[:100]
    stream = await http_store.get(KEY, end=100)
    assert (stream.start, stream.end, stream.partial) == (0, 100, False)
    await stream.aclose()


async def test_another_version_is_never_skipped_into(http_store, origin, fail, read):
    origin.put(f"bucket/{KEY}", DATA[::-1], etag="v2")
    fail(ignore_range=True)
    with pytest.raises(PreconditionFailed):
        await read(http_store, start=10, if_match="v1")


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-gzip", "GZIP"])
async def test_an_encoded_body_is_not_the_object(http_store, fail, read, encoding):
    fail(headers={"Content-Encoding": encoding})
    with pytest.raises(UpstreamCorrupt, match=encoding.lower()) as caught:
        await read(http_store)
    assert "gzip off" in caught.value.hint


async def test_the_server_is_asked_not_to_encode(http_store, origin, read):
    await read(http_store)
    assert origin.gets(f"bucket/{KEY}")[0].headers["Accept-Encoding"] == "identity"


async def test_more_bytes_than_the_range_are_corrupt(http_store, fail, read):
    fail(chunked=True, body=DATA[10:200])
    with pytest.raises(UpstreamCorrupt, match="more bytes"):
        await read(http_store, start=10, end=100)


async def test_fewer_bytes_than_the_range_are_corrupt(http_store, fail, read):
    fail(chunked=True, body=DATA[10:50])
    with pytest.raises(UpstreamCorrupt, match="50 bytes early"):
        await read(http_store, start=10, end=100)


async def test_a_server_without_etag_has_weak_versions(http_store, origin, read):
    origin.put(f"bucket/{KEY}", DATA, etag="", modified=1_700_000_000)
    meta = await http_store.head(KEY)
    assert meta.weak
    assert await read(http_store, start=5, if_match=meta.etag) == DATA[5:]
    origin.put(f"bucket/{KEY}", DATA, etag="", modified=1_700_000_001)
    with pytest.raises(PreconditionFailed):
        await read(http_store, start=5, if_match=meta.etag)


async def test_a_server_without_any_version_is_a_new_one_each_time(http_store, fail):
    fail(headers={"ETag": None, "Last-Modified": None}, times=2)
    first, second = [await http_store.get(KEY) for _ in range(2)]
    assert first.meta.weak
    assert first.meta.etag != second.meta.etag
    await first.aclose()
    await second.aclose()


async def test_a_weak_etag_stays_weak(store, fail):
    fail(headers={"ETag": 'W/"v1"'})
    stream = await store.get(KEY)
    assert (stream.meta.etag, stream.meta.weak) == ("v1", True)
    await stream.aclose()


async def test_an_origin_that_is_down_is_unavailable(open_bucket):
    for where in ("http://127.0.0.1:9/base", "s3://bucket?endpoint=http://127.0.0.1:9&skip_signature=true"):
        store = open_bucket(where)
        with pytest.raises(UpstreamUnavailable) as caught:
            await store.get(KEY)
        assert caught.value.hint
        await store.aclose()


async def test_a_header_that_is_no_http_is_corrupt(http_store, fail, read):
    fail(headers={"Content-Length": "many"})
    with pytest.raises(UpstreamError, match=KEY):
        await read(http_store)


async def test_a_head_that_is_not_allowed_becomes_a_get_without_body(http_store, origin):
    origin.refuse_head = True
    meta = await http_store.head(KEY)
    assert (meta.size, meta.etag) == (len(DATA), "v1")
