from __future__ import annotations

import pytest
from benchmarks.harness import Comparison, compare, in_turns
from benchmarks.table import Aim, Row, into_page, ratio_row, value_row


@pytest.mark.parametrize(
    ("aim", "value", "verdict"),
    [
        (Aim("≤", 1.0), 1.0, "met"),
        (Aim("≤", 1.0), 1.01, "missed"),
        (Aim("≥", 0.95), 0.95, "met"),
        (Aim("≥", 0.95), 0.94, "missed"),
        (None, 7.0, "-"),
    ],
)
def test_a_row_says_whether_its_aim_is_met(aim: Aim | None, value: float, verdict: str) -> None:
    assert Row("warm", "what", "peer", value, value, value, aim=aim).verdict == verdict


def test_a_ratio_is_the_median_of_the_turns_and_not_the_ratio_of_medians() -> None:
    row = ratio_row("warm", "what", "peer", Comparison(ours=(1.0, 2.0, 9.0), theirs=(1.0, 4.0, 3.0)))
    assert (row.value, row.low, row.high) == (1.0, 0.5, 3.0)
    assert row.detail == "2 / 3"


def test_a_value_keeps_its_unit_and_its_spread() -> None:
    assert value_row("memory", "what", "before", [1.0, 5.0, 2.0], "MiB").cells()[2:4] == ["2 MiB", "1 to 5"]


def test_turns_alternate_so_that_drift_hits_both_sides() -> None:
    order: list[str] = []
    pairs = in_turns(3, lambda: order.append("ours") or len(order), lambda: order.append("theirs") or len(order))
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert pairs == [(1, 2), (4, 3), (5, 6)]


def test_differences_and_ratios_are_taken_turn_by_turn() -> None:
    comparison = compare([(4, 2), (9, 3)], float)
    assert comparison.ratios == [2.0, 3.0]
    assert comparison.differences == [2.0, 6.0]


def test_results_replace_the_old_ones_in_a_page_and_nothing_else() -> None:
    row = Row("warm", "what", "peer", 1.0, 1.0, 1.0)
    begin, end = "<!-- results: begin -->", "<!-- results: end -->"
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    once = into_page(page, [row], {"cores": "2"}, "make bench")
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "| what | peer | 1 x |" in once
    assert into_page(once, [row], {"cores": "2"}, "make bench") == once


def test_a_page_without_a_place_for_results_is_refused() -> None:
    with pytest.raises(ValueError, match="results: begin"):
        into_page("no marks", [], {}, "make bench")
