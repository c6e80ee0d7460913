"""`args` in one spelling: equal args are equal text, and what is ambiguous is refused."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shardgate import Client
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.etl.arguments import canonical
from shardgate_gateway.http.request import object_target

LIMIT = 100_000
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), VALUES)


def shuffled(value: object) -> object:
    """The same with the keys of its objects the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(OBJECTS)
def test_equal_json_has_one_spelling(value: dict[str, object]) -> None:
    text = canonical(json.dumps(value), LIMIT)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert canonical(" " + json.dumps(shuffled(value), indent=3), LIMIT) == text
    assert canonical(text, LIMIT) == text
    assert text.isascii()


@given(st.text().filter(lambda text: not text.lstrip().startswith(("{", "["))))
def test_text_stays_as_it_is(text: str) -> None:
    assume(text.isprintable())
    assert canonical(text, LIMIT) == text


@given(OBJECTS)
def test_args_of_a_client_arrive_in_that_spelling(value: dict[str, object]) -> None:
    url = Client("http://127.0.0.1:1").object_url("gcp://b", "k", transform_id="a,b", args=value)
    parts = urlsplit(url)
    target = object_target(f"{parts.path}?{parts.query}")
    assert target.transform == "a,b"
    assert parse_qs(parts.query, keep_blank_values=True)["args"] == [target.args]
    assert canonical(target.args, LIMIT) == target.args == json.dumps(value, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "begins like JSON"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e400}', "1e400 is too large"),
        ("[" * 3000, "begins like JSON"),
        ("x" * 4097, "args has 4097 bytes, and 4096 are allowed"),
        ("ü" * 2049, "args has 4098 bytes"),
    ],
)
def test_what_is_ambiguous_or_too_long_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        canonical(text, 4096)
