"""The lying web server lies exactly as told. Read with the plainest client there is."""

from __future__ import annotations

import http.client
import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from servers_faulty import Fault, FaultyOrigin

DATA = os.urandom(300_000)


@pytest.fixture
def origin():
    with FaultyOrigin() as origin:
        origin.put("a.tar", DATA, etag="v1")
        yield origin


def fetch(origin, **headers):
    with urlopen(Request(f"{origin.url}/a.tar", headers=headers)) as response:
        return response.read()


def test_it_serves_objects_and_ranges_and_counts_them(origin):
    assert fetch(origin) == DATA
    assert fetch(origin, Range="bytes=10-19") == DATA[10:20]
    assert [asked.sent for asked in origin.gets("a.tar")] == [len(DATA), 10]
    assert origin.bytes_sent("a.tar") == len(DATA) + 10


def test_another_etag_than_wanted_is_412(origin):
    with pytest.raises(HTTPError, match="412") as caught:
        fetch(origin, **{"If-Match": '"v0"'})
    caught.value.close()


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_body_reads_as_broken_once_and_then_whole(origin, ending, chunked):
    origin.fail("a.tar", Fault(after=200_000, ending=ending, chunked=chunked))
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        fetch(origin)
    assert fetch(origin) == DATA


def test_a_stalled_body_goes_on_when_released(origin):
    origin.fail("a.tar", Fault(after=1000, ending="stall", then=origin.release))
    assert fetch(origin) == DATA


def test_a_storm_of_503_ends_after_as_many_as_asked(origin):
    origin.fail("a.tar", Fault(status=503, headers={"Retry-After": "7"}), times=2)
    for _ in range(2):
        with pytest.raises(HTTPError, match="503") as caught:
            fetch(origin)
        assert caught.value.headers["Retry-After"] == "7"
        caught.value.close()
    assert fetch(origin) == DATA


def test_a_range_can_be_ignored_and_headers_can_lie(origin):
    origin.fail("a.tar", Fault(ignore_range=True, headers={"Content-Encoding": "gzip", "ETag": None}))
    with urlopen(Request(f"{origin.url}/a.tar", headers={"Range": "bytes=5-9"})) as response:
        assert response.status == 200
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["ETag"] is None
        assert response.read() == DATA
