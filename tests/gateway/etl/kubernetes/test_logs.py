"""How much of the logs of pods is kept in memory."""

from __future__ import annotations

import pytest

from shardgate_gateway.etl.kubernetes.logs import Tail


@pytest.mark.parametrize(
    ("lines", "most", "kept"),
    [
        (0, 100, []),
        (2, 100, ["three", "four"]),
        (9, 100, ["one", "two", "three", "four"]),
        (9, 9, ["three", "four"]),
        (9, 1, ["four"]),
    ],
)
def test_the_last_lines_are_kept_as_many_as_wanted_and_as_fit(lines: int, most: int, kept: list[str]) -> None:
    tail = Tail(lines, most)
    for text in ("one", "two", "three", "four"):
        tail.add(("", text))
    assert [text for _, text in tail.kept] == kept
