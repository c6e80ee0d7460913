"""Keys of a shard: each known again, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from shardgate_runtime import remembered_keys
from shardgate_runtime.remembered_keys import RememberedKeys

if TYPE_CHECKING:
    import pytest


@given(st.lists(st.text(max_size=3), max_size=3000))
def test_a_key_is_known_again_with_the_place_where_it_was_met_first(names: list[str]) -> None:
    keys, known = RememberedKeys(), {}
    for place, name in enumerate(names):
        assert keys.add(name, place) == known.get(name)
        known.setdefault(name, place)


def test_many_keys_are_all_known_again() -> None:
    keys = RememberedKeys()
    for number in range(50_000):
        assert keys.add(f"train/{number:08}", number * 512) is None
    for number in range(50_000):
        assert keys.add(f"train/{number:08}", 0) == number * 512


def test_keys_beyond_the_limit_take_no_memory_and_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_keys, "MAX_KEYS", 4096)
    keys = RememberedKeys()
    for number in range(20_000):
        assert keys.add(str(number), number) is None
    assert len(keys._digests) == 2 * 4096
    assert keys.add("17", 0) == 17
    assert keys.add("19999", 0) is None
