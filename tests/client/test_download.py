"""A body is whole and of one version, or an error; a broken connection is only a pause."""

from __future__ import annotations

import gc
import os
import warnings
from typing import TYPE_CHECKING

import pytest
import raw_answers
from fake_gateway import FakeGateway, Fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_answers import CUT, ENDING, ENDLESS, answering

from shardgate import (
    Busy,
    Client,
    GatewayUnreachable,
    NotFound,
    ObjectChanged,
    TransferIncomplete,
    download,
    notices,
    wire,
)
from shardgate.notices import ResultWarning
from shardgate.wds_opener import open_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def stored(gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/k"] = BODY


def ranges(gateway: FakeGateway) -> list[str | None]:
    return [headers.get("Range") for method, _, headers in gateway.requests if method == "GET"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_body_is_continued_where_it_broke(client: Client, gateway: FakeGateway, chunked: bool) -> None:
    gateway.chunked = chunked
    gateway.faults = [Fault(after=1_000_000), Fault(after=0), Fault(after=1_500_000)]
    assert client.get("gcp://b", "k") == BODY
    first, *others = ranges(gateway)
    assert first is None
    assert len(others) == 3
    assert all(others)
    assert all(headers["If-Match"] == gateway.etag(BODY) for _, _, headers in gateway.requests[1:])


@pytest.mark.parametrize("chunked", [False, True])
def test_what_came_before_a_break_is_kept_however_much_was_asked_for_at_once(
    gateway: FakeGateway, chunked: bool
) -> None:
    gateway.chunked = chunked
    gateway.faults = [Fault(after=500_000, reset=False)] * 5
    with open_url(Client(gateway.url).object_url("gcp://b", "k"), bufsize=len(BODY)) as reader:
        assert reader.read(len(BODY)) == BODY
    assert len(ranges(gateway)) == 6


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_broke_behind_its_last_byte_is_read_to_its_end(
    client: Client, gateway: FakeGateway, chunked: bool
) -> None:
    gateway.chunked = chunked
    gateway.faults = [Fault(after=len(BODY), reset=False)]
    assert client.get("gcp://b", "k") == BODY


def test_a_gateway_without_ranges_is_read_again_and_the_beginning_dropped(client: Client, gateway: FakeGateway) -> None:
    gateway.ranges = False
    gateway.faults = [Fault(after=2_000_000)]
    assert client.get("gcp://b", "k") == BODY


def test_an_object_overwritten_in_between_is_never_mixed(client: Client, gateway: FakeGateway) -> None:
    gateway.faults = [Fault(after=1_000_000)]
    with client.open("gcp://b", "k") as reader:
        reader.read(10)
        gateway.objects["gcp://b/k"] = os.urandom(3_000_000)
        with pytest.raises(ObjectChanged, match="overwritten"):
            reader.readall()


def test_an_overwrite_is_noticed_also_where_conditions_are_ignored(
    client: Client, gateway: FakeGateway, monkeypatch
) -> None:
    gateway.faults = [Fault(after=1_000_000)]
    with client.open("gcp://b", "k") as reader:
        reader.read(10)
        gateway.objects["gcp://b/k"] = BODY[::-1]
        monkeypatch.setattr(gateway, "etag", lambda body: '"same"')
        reader.etag = '"other"'
        with pytest.raises(ObjectChanged):
            reader.readall()


def test_without_an_etag_a_broken_body_is_an_error(client: Client, gateway: FakeGateway) -> None:
    gateway.etags = False
    gateway.faults = [Fault(after=1_000_000)]
    with pytest.raises(TransferIncomplete, match="no ETag"):
        client.get("gcp://b", "k")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_never_continues_is_an_error_that_says_how_far_it_came(
    client: Client, gateway: FakeGateway, chunked: bool
) -> None:
    gateway.chunked = chunked
    gateway.faults = [Fault(after=1_000_000)] + [Fault(after=0)] * 20
    with pytest.raises(TransferIncomplete, match=r"gcp://b/k broke off after \d+ bytes, and 5 tries"):
        client.get("gcp://b", "k")


def test_asking_for_nothing_gets_nothing_and_costs_nothing(client: Client, gateway: FakeGateway) -> None:
    with client.open("gcp://b", "k") as reader:
        for _ in range(10):
            assert reader.read(0) == b""
            assert reader.readinto(bytearray()) == 0
            assert reader.read(5)
        assert reader.position == 50
        assert reader.readall() == BODY[50:]
        assert reader.read(0) == reader.read(1) == b""
    assert len(gateway.requests) == 1
    with pytest.raises(ValueError, match="closed file"):
        reader.read(0)


def test_a_busy_gateway_is_asked_again_and_at_last_believed(client: Client, gateway: FakeGateway) -> None:
    gateway.faults = [Fault(status=503)] * 3
    assert client.get("gcp://b", "k") == BODY
    gateway.faults = [Fault(status=503)] * 9
    with pytest.raises(Busy):
        client.get("gcp://b", "k")


def test_a_reader_that_has_a_place_in_the_line_waits_on_and_keeps_it(gateway: FakeGateway) -> None:
    from shardgate.transport import Transport

    slept: list[float] = []
    tries = 4 * download.ATTEMPTS
    gateway.faults = [Fault(status=503, headers={"Retry-After": "2", wire.PLACE_HEADER: "17.5.abc"})] * tries
    transport = Transport(gateway.url, None, 10)
    url = Client(gateway.url).object_url("gcp://b", "k")
    with download.ObjectReader(transport, url, "k", sleep=slept.append) as reader:
        assert reader.readall() == BODY
    transport.close()
    assert slept == [2.0] * tries
    places = [headers.get(wire.PLACE_HEADER) for _, _, headers in gateway.requests]
    assert places == [None] + ["17.5.abc"] * tries


def test_a_retry_waits_as_long_as_the_gateway_asks(gateway: FakeGateway) -> None:
    from shardgate.transport import Transport

    slept: list[float] = []
    gateway.faults = [Fault(status=503, headers={"Retry-After": "7"})]
    url = Client(gateway.url).object_url("gcp://b", "k")
    transport = Transport(gateway.url, None, 10)
    with download.ObjectReader(transport, url, "k", sleep=slept.append) as reader:
        assert reader.readall() == BODY
    transport.close()
    assert slept == [7.0]


def test_a_file_appears_only_when_it_is_whole(client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
    target = tmp_path / "k.tar"
    target.write_bytes(b"older")
    gateway.faults = [Fault(after=1000)] + [Fault(after=0)] * 20
    with pytest.raises(TransferIncomplete):
        client.download("gcp://b", "k", target)
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]

    gateway.faults = []
    seen: list[tuple[int, int | None]] = []
    assert client.download("gcp://b", "k", target, progress=lambda done, size: seen.append((done, size))) == len(BODY)
    assert target.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_object_is_not_found_and_says_where_to_look(client: Client) -> None:
    with pytest.raises(NotFound, match="not there") as caught:
        client.get("gcp://b", "nothing")
    assert caught.value.code == "not_found"
    assert "shardgate ls" in str(caught.value)
    assert "r-1" in str(caught.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    breaks=st.lists(st.integers(1, 800_000), max_size=download.ATTEMPTS - 1),
    chunked=st.booleans(),
    ranged=st.booleans(),
)
def test_wherever_it_breaks_the_bytes_are_the_same(
    client: Client, gateway: FakeGateway, breaks: list[int], chunked: bool, ranged: bool
) -> None:
    gateway.chunked, gateway.ranges = chunked, ranged
    gateway.faults = [Fault(after=after) for after in breaks]
    assert client.get("gcp://b", "k") == BODY


@pytest.fixture
def quiet_sockets() -> Iterator[None]:
    """urllib3 itself refuses two lengths, and leaves the socket to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.mark.usefixtures("quiet_sockets")
@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_a_body_that_only_a_close_ends_is_never_whole(answer: bytes, tmp_path: Path) -> None:
    with answering(answer) as url, Client(url, timeout=10) as client:
        with pytest.raises((TransferIncomplete, GatewayUnreachable)):
            client.get("gcp://b", "k")
        with pytest.raises((TransferIncomplete, GatewayUnreachable)):
            client.download("gcp://b", "k", tmp_path / "k")
        with pytest.raises((TransferIncomplete, GatewayUnreachable)), open_url(f"{url}/a.tar") as reader:
            reader.read()
        with pytest.raises(GatewayUnreachable):
            client.transforms.logs("t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
def test_a_body_whose_end_is_told_is_read(answer: bytes) -> None:
    with answering(answer) as url, Client(url, timeout=10) as client:
        assert client.get("gcp://b", "k") == raw_answers.BODY
        assert client.transforms.logs("t") == raw_answers.BODY.decode()


@pytest.mark.usefixtures("quiet_sockets")
@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_the_rest_of_a_body_that_only_a_close_ends_is_no_end(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    cut = b'HTTP/1.1 200 OK\r\nContent-Length: 4000\r\nETag: "v1"\r\n\r\n' + b"x" * 100
    with answering(cut, answer) as url, Client(url, timeout=10) as client, pytest.raises(TransferIncomplete):
        client.get("gcp://b", "k")


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_a_chunked_body_that_was_cut_anywhere_is_not_whole(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    with answering(answer) as url, Client(url, timeout=10) as client:
        with pytest.raises((TransferIncomplete, ObjectChanged)):
            client.get("gcp://b", "k")
        with pytest.raises(GatewayUnreachable):
            client.transforms.logs("t")


@pytest.mark.parametrize("weak", [False, True])
def test_a_result_that_is_made_again_is_continued_where_it_broke(
    client: Client, gateway: FakeGateway, weak: bool
) -> None:
    gateway.chunked, gateway.ranges, gateway.results, gateway.etag_text = True, False, True, "W/" * weak + '"result"'
    gateway.faults = [Fault(after=1_000_000), Fault(after=700_000), Fault(after=2_000_000)]
    assert client.get("gcp://b", "k") == BODY
    assert set(ranges(gateway)[1:]) == {"bytes=0-"}


@pytest.mark.parametrize("weak", [False, True])
def test_a_result_that_comes_out_differently_the_second_time_is_never_stitched(
    client: Client, gateway: FakeGateway, weak: bool
) -> None:
    gateway.chunked, gateway.ranges, gateway.results, gateway.etag_text = True, False, True, "W/" * weak + '"result"'
    gateway.faults = [Fault(after=2_500_000, then=os.urandom(10) + BODY[10:], reset=False)]
    with (
        client.open("gcp://b", "k") as reader,
        pytest.raises(TransferIncomplete, match="came out differently when it was made again"),
    ):
        reader.readall()


def test_samples_that_are_missing_for_want_of_time_are_told_at_the_end(client: Client, gateway: FakeGateway) -> None:
    gateway.chunked, gateway.results, gateway.trailers = True, True, {"X-Shardgate-Gaps": "3"}
    with pytest.warns(ResultWarning, match="lacks 3 samples"):
        assert client.get("gcp://b", "k") == BODY


def test_a_random_result_that_is_read_twice_without_an_epoch_is_told_once(
    client: Client, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_opened", notices._Opened())
    gateway.results, gateway.answer_headers = True, {"X-Shardgate-Random": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.get("gcp://b", "k")
        for epoch in (1, 1):
            client.get("gcp://b", "k", transform_id="t", epoch=epoch)
    with pytest.warns(ResultWarning, match="without an epoch"):
        client.get("gcp://b", "k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.get("gcp://b", "k")
