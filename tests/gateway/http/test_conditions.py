"""Conditional requests, by the letter of RFC 9110 section 13."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from shardgate_gateway.errors import BadRequest, PreconditionFailed
from shardgate_gateway.http.conditions import Version, http_date, not_modified, range_applies
from shardgate_gateway.stores.base import ObjectMeta, quoted_etag

WHEN = datetime(2026, 11, 21, 8, 0, 0, 500_000, tzinfo=UTC)
STRONG = Version("abc", last_modified=WHEN)
WEAK = Version("abc", weak=True, last_modified=WHEN)


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize("value", ['"abc"', 'W/"abc"', '"x", "abc"', '"x",W/"abc" , "y"', "*", ' "abc" ', ',, "abc",'])
@pytest.mark.parametrize("version", [STRONG, WEAK])
def test_if_none_match_compares_weakly(value: str, version: Version) -> None:
    assert not_modified(headers(("If-None-Match", value)), version)


@pytest.mark.parametrize("value", ['"x"', '"abc', "abc", '"abc "', "", '"ab", "c"', '"x,abc"', "**"])
def test_if_none_match_of_another_version_does_not_match(value: str) -> None:
    assert not not_modified(headers(("If-None-Match", value)), STRONG)


def test_a_list_may_be_spread_over_several_headers() -> None:
    assert not_modified(headers(("If-None-Match", '"x"'), ("If-None-Match", '"abc"')), STRONG)


def test_if_match_compares_strongly() -> None:
    assert not not_modified(headers(("If-Match", '"x", "abc"')), STRONG)
    assert not not_modified(headers(("If-Match", "*")), WEAK)
    for value, version in [('"x"', STRONG), ('W/"abc"', STRONG), ('"abc"', WEAK), ("abc", STRONG)]:
        with pytest.raises(PreconditionFailed):
            not_modified(headers(("If-Match", value)), version)


def test_dates_count_to_the_second() -> None:
    same, before = http_date(WHEN), http_date(WHEN - timedelta(seconds=1))
    assert not_modified(headers(("If-Modified-Since", same)), STRONG)
    assert not not_modified(headers(("If-Modified-Since", before)), STRONG)
    assert not not_modified(headers(("If-Unmodified-Since", same)), STRONG)
    with pytest.raises(PreconditionFailed):
        not_modified(headers(("If-Unmodified-Since", before)), STRONG)


def test_etags_beat_dates() -> None:
    assert not not_modified(headers(("If-None-Match", '"x"'), ("If-Modified-Since", http_date(WHEN))), STRONG)
    before = http_date(WHEN - timedelta(days=1))
    assert not not_modified(headers(("If-Match", '"abc"'), ("If-Unmodified-Since", before)), STRONG)


@pytest.mark.parametrize(
    "date",
    [
        "yesterday",
        "",
        "Sat, 99 Nov 2026 08:00:00 GMT",
        "9" * 400,
        "Sat, 21 Nov 2026 08:00:00 +99999999999999",
        "Sat, 21 Nov 2026 08:00:00 -9999999",
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "Sat, 21 Nov 99999999999999999999 08:00:00 GMT",
        "Sat, 21 Nov 2026 08:00:00:00:00 GMT",
        "\udce9\x00",
    ],
)
def test_a_date_that_is_none_is_ignored(date: str) -> None:
    assert not not_modified(headers(("If-Modified-Since", date), ("If-Unmodified-Since", date)), STRONG)


def test_a_range_applies_only_to_the_version_that_if_range_names() -> None:
    assert range_applies(headers(), STRONG)
    assert range_applies(headers(("If-Range", '"abc"')), STRONG)
    for value, version in [('"x"', STRONG), ('W/"abc"', STRONG), ('"abc"', WEAK), ("nonsense", STRONG)]:
        assert not range_applies(headers(("If-Range", value)), version)


def test_a_date_is_no_proof_that_a_range_fits() -> None:
    """The object may have been written twice within that second."""
    assert not range_applies(headers(("If-Range", http_date(WHEN))), STRONG)
    assert not range_applies(headers(("If-Range", http_date(WHEN + timedelta(days=1)))), STRONG)


@pytest.mark.parametrize("value", ['"x" "abc"', 'x, "abc"', '"x", oops, "abc"', '"x"W/"abc"', 'W/ "abc"'])
def test_a_list_of_etags_is_read_up_to_what_is_none(value: str) -> None:
    assert not not_modified(headers(("If-None-Match", value)), STRONG)


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
def test_a_list_of_etags_longer_than_any_reader_needs_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="list of etags"):
        not_modified(headers(*[(name, '"x",' * 1000)] * 10), STRONG)


def test_ordinary_etags_stand_in_headers_as_they_are() -> None:
    for etag in ["9b2cf535f27731c974343645a3985328-2", "0x8DC1234", "CJ+6x9+O4oIDEAE=", "a/b:c"]:
        assert Version.of(ObjectMeta("k", 1, etag)).header == f'"{etag}"'


@given(st.text(min_size=1, max_size=40))
def test_any_etag_of_a_store_makes_a_harmless_header_that_matches_itself(etag: str) -> None:
    version = Version(quoted_etag(etag))
    assert version.header.isascii()
    assert version.header.isprintable()
    assert version.header.count('"') == 2
    assert not_modified(headers(("If-None-Match", version.header)), version)


@given(st.text(max_size=60))
def test_no_header_breaks_the_parser(value: str) -> None:
    assert not_modified(headers(("If-None-Match", value)), Version("\x7f impossible")) in (False, value.strip() == "*")
