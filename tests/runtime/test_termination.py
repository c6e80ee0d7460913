from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from shardgate_runtime.termination import MAX_BYTES, as_json


@given(st.text(max_size=3000), st.integers(1, 20), st.text(max_size=6000))
def test_last_words_are_whole_json_that_fits(message: str, times: int, hint: str) -> None:
    data = as_json(message * times, hint)
    assert len(data) <= MAX_BYTES
    assert set(json.loads(data)) == {"message", "hint"}


def test_what_fits_is_left_alone_and_what_does_not_keeps_both_ends() -> None:
    assert json.loads(as_json("why", "what to do")) == {"message": "why", "hint": "what to do"}
    long = json.loads(as_json("beginning " + "x" * 9000 + " end", "hint"))["message"]
    assert long.startswith("beginning ")
    assert long.endswith(" end")
