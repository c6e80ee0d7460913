"""Text of users becomes short and encodable, whatever it is."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate.text import MAX_TEXT, safe_line, safe_text


class Awkward:
    def __str__(self) -> str:
        raise SystemExit(3)


class NotText:
    def __str__(self) -> str:
        return 5  # noqa: PLE0307 (the point of this class)


@given(st.text(st.characters()), st.integers(1, 40))
def test_any_text_fits_every_strict_encoder_and_the_limit(text: str, limit: int) -> None:
    for safe in (safe_text(text, limit), safe_line(text, limit)):
        assert len(safe) <= limit
        assert json.loads(json.dumps(safe)) == safe
        assert msgpack.unpackb(msgpack.packb(safe)) == safe
    assert len(safe_line(text, limit).splitlines()) <= 1


@pytest.mark.parametrize("value", [Awkward(), NotText()])
def test_a_value_whose_text_raises_is_named_by_its_type(value: object) -> None:
    assert type(value).__name__ in safe_text(value)


def test_the_beginning_of_a_long_text_is_kept() -> None:
    text = safe_text("ValueError: " + "x" * 6_000_000)
    assert text.startswith("ValueError: xx")
    assert len(text) == MAX_TEXT


def test_bytes_that_are_no_text_and_escapes_are_shown() -> None:
    assert safe_text("ph\udce9\x1b[31m\nnext") == "ph\\udce9\\x1b[31m\nnext"
    assert safe_line("a\nb\rc\td\u2028e") == "a\\nb\\rc\\td\\u2028e"
    assert safe_text("plain é 漢 🙂") == "plain é 漢 🙂"
