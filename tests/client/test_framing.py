"""An answer's body has an end that somebody tells, or it is refused; whatever its headers are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate.framing import framing


@pytest.mark.parametrize(
    ("lengths", "codings", "length"),
    [(["0"], [], 0), (["5"], [], 5), ([" 5\t"], [], 5), ([], ["chunked"], None), ([], [" Chunked "], None)],
)
def test_an_end_that_is_told_is_believed(lengths, codings, length):
    assert framing(lengths, codings) == (length, "")


@pytest.mark.parametrize(
    ("lengths", "codings"),
    [
        ([], []),
        ([], [""]),
        ([], ["xchunked"]),
        ([], ["chunkedx"]),
        ([], ["identity"]),
        ([], ["chunked, gzip"]),
        ([], ["gzip, chunked"]),
        ([], ["chunked, chunked"]),
        ([], ["chunked", "gzip"]),
        ([], ["chunked;q=1"]),
        (["5"], ["chunked"]),
        (["5"], ["gzip"]),
        (["5", "6"], []),
        (["5", "5"], []),
        (["5, 5"], []),
        (["+5"], []),
        (["-1"], []),
        (["5_0"], []),
        (["٣"], []),
        (["0x5"], []),
        ([""], []),
        (["9" * 5000], []),
        (["\udce9"], []),
    ],
)
def test_an_end_that_only_a_close_tells_is_not_believed(lengths, codings):
    found = framing(lengths, codings)
    assert found.length is None
    assert found.problem
    found.problem.encode()


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_no_header_is_too_odd_for_it(lengths, codings):
    found = framing(lengths, codings)
    assert len(found.problem) < 300
    if not found.problem:
        assert len(lengths) + len(codings) == 1
