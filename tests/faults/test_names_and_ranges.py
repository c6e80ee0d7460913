"""What a hostile or careless client sends: names that look like others, ranges of all kinds, broken HTTP.

Whatever it asks, it gets the right bytes of the object it named, or an error; never another object. Cases 15, 16, 17.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
from urllib.parse import urlsplit

import pytest
from readers import curl, get_raw, send_raw
from shards import random_bytes

from shardgate import GatewayError

SIZE = 700_001
DATA = random_bytes(SIZE)
KEYS = [
    "a",
    "b/a",
    "b/a.tar",
    "a.tar",
    "a.tar.gz",
    "a b",
    "a+b",
    "a%2Fb",
    "a%20b",
    "a?b=c",
    "a#b",
    "ä/ö ü.tar",
    "a\u0308.tar",
    "..a",
    "a..",
    "...",
    "a;b",
    "%",
    "%00",
    "x" * 255,
    "deep/" * 50 + "a",
]


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, tmp_path_factory, origin):
    home = tmp_path_factory.mktemp("home")
    (home / "secret.txt").write_text("outside of the bucket")
    (home / "bucket").mkdir()
    (home / "bucket" / "data.bin").write_bytes(DATA)
    (home / "bucket" / "empty.bin").write_bytes(b"")
    return start_shared_gateway({"file://b": home / "bucket", "mem://m": "mem://", "http://web": origin.url})


@pytest.mark.parametrize("bucket", ["mem://m", "file://b"])
def test_names_that_look_alike_are_different_objects(gateway, bucket):
    stored = {key: b"%d " % number + key.encode() for number, key in enumerate(KEYS)}
    for key, data in stored.items():
        gateway.client.put(bucket, key, data)
    for key, data in stored.items():
        assert curl(gateway.url(bucket, key)).body == data
    assert set(stored) <= {entry.name for entry in gateway.client.list(bucket)}


def test_an_object_and_a_folder_of_the_same_name_live_side_by_side_where_the_store_can(gateway):
    gateway.client.put("mem://m", "both", b"object")
    gateway.client.put("mem://m", "both/below", b"below")
    assert curl(gateway.url("mem://m", "both")).body == b"object"
    assert curl(gateway.url("mem://m", "both/below")).body == b"below"
    gateway.client.put("file://b", "both", b"object")
    with pytest.raises(GatewayError, match="both"):
        gateway.client.put("file://b", "both/below", b"below")
    assert curl(gateway.url("file://b", "both")).body == b"object"
    assert curl(gateway.url("file://b", "both/below")).status == 404


def test_a_compressed_neighbour_is_never_served_in_place_of_the_object(gateway):
    """aiohttp's FileResponse would: with `Accept-Encoding: gzip`, `a.tar` becomes `a.tar.gz`."""
    plain = random_bytes(400_000, 5)
    gateway.client.put("file://b", "pair.tar", plain)
    gateway.client.put("file://b", "pair.tar.gz", gzip.compress(plain))
    url = gateway.url("file://b", "pair.tar")
    for _ in range(3):
        answer = curl(url, "-H", "Accept-Encoding: gzip, br, zstd")
        assert answer.body == plain
        assert "content-encoding" not in answer.headers


OUTSIDE = [
    "../secret.txt",
    "..%2Fsecret.txt",
    "%2e%2e/secret.txt",
    "%2E%2E%2Fsecret.txt",
    "%2e%2e%2fsecret.txt",
    "x/../../secret.txt",
    "x/%2e%2e/%2e%2e/secret.txt",
    "..%5csecret.txt",
    "%252e%252e/secret.txt",
    "./../secret.txt",
    "//secret.txt",
    "..;/secret.txt",
    "data.bin%00.txt",
    "%00",
    "data.bin/",
    "data.bin/x",
    "%ff%fe",
    "%zz",
    "%",
    "\u00e4",
    "x" * 2000,
    "a/" * 600 + "a",
]


@pytest.mark.parametrize("name", OUTSIDE, ids=[name[:30] for name in OUTSIDE])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_no_name_leads_out_of_its_bucket(gateway, name, method):
    target = f"/v1/objects/b/{name}?provider=file"
    request = f"{method} {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
    answer = send_raw(gateway.endpoint, request.encode())
    assert answer.status in {400, 404}
    assert b"outside" not in answer.body
    if method != "HEAD" and answer.headers.get("content-type", "").startswith("application/json"):
        assert json.loads(answer.body)["code"] in {"bad_request", "not_found"}
    assert curl(gateway.url("file://b", "data.bin")).body == DATA


WHOLE, PART, REFUSED = {200}, {206}, {416}
RANGES = {
    "bytes=0-0": PART,
    "bytes=0-": PART,
    f"bytes={SIZE - 1}-": PART,
    "bytes=-1": PART,
    f"bytes=-{SIZE}": PART,
    f"bytes=-{SIZE + 5}": PART,
    f"bytes=100-{SIZE + 100}": PART,
    "bytes=100-200": PART,
    "bytes=262143-262145": PART,
    "bytes=18446744073709551616-": REFUSED,
    "bytes=0-18446744073709551616": PART,
    f"bytes={SIZE}-": REFUSED,
    f"bytes={SIZE}-{SIZE + 1}": REFUSED,
    "bytes=-0": REFUSED,
    "bytes=200-100": WHOLE,
    "bytes=0-1,5-6": WHOLE,
    "bytes=0-1, 0-1, 0-1": WHOLE,
    "bytes=-5,0-1": WHOLE,
    "bytes=": WHOLE,
    "bytes=-": WHOLE,
    "bytes=a-b": WHOLE,
    "bytes=1-2-3": WHOLE,
    "bytes=--1": WHOLE,
    "bytes=+1-2": WHOLE,
    "bytes=1_0-2_0": WHOLE,
    "bytes=0x1-0x2": WHOLE,
    "bytes=1.0-2.0": WHOLE,
    "bytes=\u0661-\u0662": WHOLE | {400},
    "bytes=\uff11-\uff12": WHOLE | {400},
    "bytes=\u00b2-\u00b3": WHOLE | {400},
    "items=0-1": WHOLE,
    "bytes 0-1": WHOLE,
    "0-1": WHOLE,
    "bytes=" + "9" * 5000 + "-": REFUSED | WHOLE | {400, 431},
    "bytes=" + ",".join(f"{i}-{i}" for i in range(1500)): WHOLE | {400, 431},
}


@pytest.mark.parametrize(("header", "expected"), RANGES.items(), ids=[name[:30] for name in RANGES])
def test_a_range_gives_exactly_what_its_answer_says(gateway, header, expected):
    answer = get_raw(gateway.endpoint, "/v1/objects/b/data.bin?provider=file", Range=header)
    assert answer.status in expected | ({400} if expected == WHOLE else set())
    if answer.status == 200:
        assert answer.body == DATA
    if answer.status == 206:
        first, last, size = map(int, re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers["content-range"]).groups())
        assert size == SIZE
        assert answer.body == DATA[first : last + 1]
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
    if answer.status == 416:
        assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-"])
def test_an_empty_object_has_no_range_but_is_there(gateway, header):
    answer = get_raw(gateway.endpoint, "/v1/objects/b/empty.bin?provider=file", Range=header)
    assert (answer.status, answer.body[:0]) in {(200, b""), (416, b"")}
    assert curl(gateway.url("file://b", "empty.bin")).status == 200


BROKEN = {
    "Content-Length and Transfer-Encoding": "PUT {0} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two Content-Lengths": "PUT {0} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\naaaaa",
    "a negative Content-Length": "PUT {0} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a signed Content-Length": "PUT {0} HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
    "an unknown transfer coding": "PUT {0} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a bad chunk size": "PUT {0} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a space before the colon": "GET {0} HTTP/1.1\r\nHost : x\r\n\r\n",
    "a header without a colon": "GET {0} HTTP/1.1\r\nHost\r\n\r\n",
    "a header that is too long": "GET {0} HTTP/1.1\r\nHost: x\r\nX-Long: {1}\r\n\r\n",
    "a line that is too long": "GET {0}&args={1} HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in a header": "GET {0} HTTP/1.1\r\nHost: x\r\nX-Nul: a\0b\r\n\r\n",
    "no HTTP at all": "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("request_text", BROKEN.values(), ids=BROKEN.keys())
def test_broken_http_is_refused_and_the_next_request_is_not_smuggled_in(gateway, request_text):
    before = curl(gateway.url("file://b", "data.bin")).body
    text = request_text.format("/v1/objects/b/broken.bin?provider=file", "x" * 100_000)
    smuggled = "DELETE /v1/objects/b/data.bin?provider=file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = send_raw(gateway.endpoint, (text + smuggled).encode("latin-1"))
    assert answer.status in {0, 400, 405, 413, 414, 431, 501}
    assert curl(gateway.url("file://b", "data.bin")).body == before == DATA
    assert curl(gateway.url("file://b", "broken.bin")).status == 404


@pytest.mark.parametrize(
    "start", ["Content-Length: 1000\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n"]
)
def test_an_upload_that_ends_early_stores_nothing(gateway, start):
    parts = urlsplit(gateway.endpoint)
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        sock.sendall(f"PUT /v1/objects/b/short.bin?provider=file HTTP/1.1\r\nHost: gateway\r\n{start}".encode())
    assert curl(gateway.url("file://b", "short.bin")).status == 404
    assert "short.bin" not in {entry.name for entry in gateway.client.list("file://b")}


MISSPELT = ["transform_id=nobody", "archpath=nobody", "transfrom_id=x", "epoch=-1&uuid=x", "epoch=\u0661&uuid=x"]


@pytest.mark.parametrize("query", MISSPELT)
def test_a_query_that_cannot_be_obeyed_never_gives_the_raw_object(gateway, query):
    answer = get_raw(gateway.endpoint, f"/v1/objects/b/data.bin?provider=file&{query}")
    assert answer.status in {400, 404, 422}
    assert DATA[:1000] not in answer.body
