"""Keys are held exactly, or refused: tried with whatever hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shardgate_gateway.errors import BadRequest, Conflict, UpstreamError
from shardgate_gateway.stores.keys import MAX_KEY_BYTES, check_key, is_key

part = st.text(min_size=1, max_size=12)
keys = st.lists(part, min_size=1, max_size=4).map("/".join)
good_keys = keys.filter(is_key)
TRICKY = ["%", "%2F", "%2e%2e", "a b", " a ", "ü", "u\u0308", "a#1", "a?b=c&d", "a\\b", "con:", "c:", "C|", "~", "+"]


def examples(test):
    for key in TRICKY:
        test = example(key=key)(test)
    return test


@given(st.text())
def test_a_key_is_refused_or_has_only_one_meaning(key):
    if is_key(key):
        assert all(part not in {"", ".", ".."} for part in key.split("/"))
        assert len(key.encode()) <= MAX_KEY_BYTES
    else:
        with pytest.raises(BadRequest) as caught:
            check_key(key)
        assert caught.value.hint


# One store serves all examples: their keys differ, and those that can be are deleted as they go.
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(key=good_keys)
@examples
async def test_a_key_that_is_held_is_put_listed_read_and_deleted_by_its_own_name(backend, key):
    try:
        await backend.fill(key, key.encode())
    except (BadRequest, Conflict, UpstreamError):  # a key may be refused, but not changed
        return
    meta, body = await backend.read(key)
    assert (meta.key, body) == (key, key.encode())
    if backend.lists:
        page = await backend.store.list(key)
        assert key in [meta.key for meta in page.objects]
    if backend.writable:
        await backend.store.delete(key)
