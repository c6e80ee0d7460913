"""Range headers: one range is served, several are not split up, nonsense is ignored, and behind the end is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.errors import RangeNotSatisfiable
from shardgate_gateway.http.ranges import Span, parse_range

sizes = st.integers(0, 1 << 62)


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=5-", (5, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=90-500", (90, 100)),
        ("BYTES=1-2", (1, 3)),
        ("bytes= 1-2 ", (1, 3)),
        ("bytes=0-" + "9" * 5000, (0, 100)),
        ("bytes=" + "0" * 5000 + "7-9", (7, 10)),
    ],
)
def test_one_range_is_what_it_says_cut_to_the_body(header: str, span: tuple[int, int]) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=2-1",
        "bytes=1-2-3",
        "bytes=--5",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0x1-2",
        "bytes=1_0-20",
        "bytes=\u0661-\u0662",
        "bytes=\uff11-",
        "items=0-5",
        "0-5",
    ],
)
def test_a_malformed_range_is_ignored(header: str) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=0-0,-1", "bytes=0-,0-", "bytes=500-,0-1"])
def test_several_ranges_are_answered_with_the_whole_body(header: str) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_a_range_without_a_byte_of_the_body_can_not_be_satisfied(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, 100)
    assert caught.value.size == 100


def test_an_empty_body_has_no_first_byte_and_its_suffix_is_all_of_it() -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range("bytes=0-", 0)
    assert parse_range("bytes=-1", 0) is None


@given(size=sizes, first=sizes, length=st.integers(1, 1 << 62))
def test_a_range_that_overlaps_the_body_is_its_overlap(size: int, first: int, length: int) -> None:
    header = f"bytes={first}-{first + length - 1}"
    if first >= size:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(header, size)
    else:
        assert parse_range(header, size) == Span(first, min(first + length, size))


@given(header=st.text(max_size=60), size=sizes)
def test_whatever_stands_in_the_header_the_span_lies_in_the_body(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            span = parse_range(text, size)
        except RangeNotSatisfiable:
            continue
        assert span is None or 0 <= span.start < span.end <= size
