"""An error comes through a header as it was, cut at its end, and the header is one that every proxy passes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate.error_header import pack_error, unpack_error


def test_a_short_error_reads_as_it_is():
    value = pack_error("not_found", "gcp://b/k does not exist", "")
    assert value == "code=not_found&message=gcp://b/k does not exist"
    assert unpack_error(value) == {"code": "not_found", "message": "gcp://b/k does not exist"}


@pytest.mark.parametrize("text", ["100 % of a&b=c", "Grüße, 世界", 'say "no"\nnext line', "+ is a plus"])
def test_any_text_comes_through(text):
    assert unpack_error(pack_error("c", text, text)) == {"code": "c", "message": text, "hint": text}


@given(st.text(), st.text(max_size=3000), st.text())
def test_the_value_is_short_printable_ascii(code, message, hint):
    value = pack_error(code, message, hint)
    assert value.isascii()
    assert value.isprintable() or not value
    assert len(value) < 2200
    unpack_error(value)


@given(st.text(max_size=200))
def test_no_header_is_too_odd_for_it(value):
    for text in unpack_error(value).values():
        assert isinstance(text, str)
