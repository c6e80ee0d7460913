"""Whatever a web server says, it is used, dropped, or refused as UpstreamCorrupt."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from shardgate_gateway.cache.entry import pack_header
from shardgate_gateway.errors import UpstreamCorrupt
from shardgate_gateway.http.head import entity
from shardgate_gateway.stores.base import ObjectMeta
from shardgate_gateway.stores.origin_answer import fitting_etag, parse_etag, parse_retry_after, read_answer

LENGTH = ("Content-Length", "5")


def answer(*fields, status=200, has_body=True):
    return read_answer(status, CIMultiDictProxy(CIMultiDict([LENGTH, *fields])), "http://b/k", has_body=has_body)


def header_texts():
    """As aiohttp decodes them: UTF-8, what is none becomes surrogates."""
    return st.binary(max_size=120).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['"v1"'], ("v1", False)),
        (['W/"v1"'], ("v1", True)),
        (['w/"v1"'], ("v1", True)),
        (["v1"], ("v1", True)),
        (['"v1'], ("v1", True)),
        (['"a,b"'], ("a,b", False)),
        (['"a"b"'], ('a"b', False)),
        (['""a""'], ('"a"', False)),
        (['"100%25 é"'], ("100%25 é", False)),
        (['""'], ("", True)),
        (['W/""'], ("", True)),
        (['"'], ("", True)),
        ([], ("", True)),
        (['"v1"', '"v1"'], ("v1", False)),
        (['"v1"', '"v2"'], ("", True)),
    ],
)
def test_an_etag_is_what_stands_between_the_quotes(values, expected):
    assert parse_etag(values) == expected


def test_different_etags_stay_different_when_they_are_made_to_fit():
    etags = ["v1", "é", "\udce9", "\udcff", "x" * 4000, "x" * 4001, "é" * 300, "\x7f", "a\tb", "a b"]
    fitting = [fitting_etag(etag) for etag in etags]
    assert len(set(fitting)) == len(etags)
    assert fitting[0] == "v1"
    assert all(len(etag.encode()) <= 512 for etag in fitting)


@pytest.mark.parametrize(
    "coding", ["identity", "aws-chunked", "AWS-Chunked", "none", "binary", "utf-8", "8bit", "", "aws-chunked, identity"]
)
def test_words_that_code_nothing_are_no_encoding(coding):
    assert answer(("Content-Encoding", coding)).span.size == 5


@pytest.mark.parametrize(
    "coding",
    ["gzip", "X-GZIP", "br", "zstd", "deflate", "compress", "aws-chunked, gzip", "gzip;q=1", "x-bzip2", "xz", "lz4"],
)
def test_an_encoded_body_is_refused(coding):
    with pytest.raises(UpstreamCorrupt, match="encoded as"):
        answer(("Content-Encoding", coding))


def test_an_encoding_in_a_second_header_is_refused():
    with pytest.raises(UpstreamCorrupt, match="encoded as gzip"):
        answer(("Content-Encoding", "identity"), ("Content-Encoding", "gzip"))


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (203, "proxy on the way changed"),
        (204, "no content"),
        (205, "no content"),
        (304, "304"),
        (201, "201"),
        (299, ""),
    ],
)
def test_a_status_that_brings_no_object_says_so(status, text):
    with pytest.raises(UpstreamCorrupt, match=f"the server answered {status}") as caught:
        answer(status=status)
    assert text in caught.value.message
    assert "Content-Range" not in caught.value.message


@pytest.mark.parametrize(
    "told",
    [
        "",
        "bytes 0-4",
        "bytes 4-0/9",
        "bytes 0-9/5",
        "bytes 0-3/9",
        "items 0-4/9",
        "bytes */9",
        f"bytes 0-4/{'9' * 5000}",
        f"bytes {'0' * 5000}-4/9",
        "bytes \u0660-\u0664/\u0669",
        "bytes 0-4/\udce9",
    ],
)
def test_a_span_that_makes_no_sense_is_refused(told):
    with pytest.raises(UpstreamCorrupt, match=r"206|Content-Length"):
        answer(("Content-Range", told), status=206)


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "Sun, 06 Nov 1994 08:49:37 +99999999999999",
        "Sun, 06 Nov 99999999 08:49:37 GMT",
        "9" * 5000,
        "-1",
        "\udce9",
        "\u0663",
        "soon",
    ],
)
def test_a_date_or_a_pause_that_nobody_can_use_is_dropped(text):
    assert parse_retry_after(text) is None
    assert answer(("Last-Modified", text)).last_modified is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                (
                    *("ETag", "Last-Modified", "Content-Type", "Content-Range", "Content-Encoding"),
                    *("Content-Length", "Transfer-Encoding", "Retry-After"),
                )
            ),
            header_texts(),
        ),
        max_size=6,
    ),
    st.sampled_from((200, 206)),
    st.booleans(),
)
@example([("ETag", '"\udce9"'), ("Content-Type", "text/\udcff"), ("Content-Length", "1")], 200, True)
def test_no_answer_is_too_odd(fields, status, has_body):
    headers = CIMultiDictProxy(CIMultiDict(fields))
    for name, value in fields:
        if name == "Retry-After":
            parse_retry_after(value)
    try:
        found = read_answer(status, headers, "http://b/k", has_body=has_body)
    except UpstreamCorrupt as error:
        error.message.encode()
        return
    etag = fitting_etag(found.etag)
    meta = ObjectMeta("k" * 1024, 5, etag, found.weak, found.last_modified, found.content_type)
    assert pack_header("n" * 64, "l" * 512, 0.0, meta)
    assert msgpack.packb(etag)
    entity(meta).encode("latin-1")
