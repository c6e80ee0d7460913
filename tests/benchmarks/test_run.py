"""Every benchmark runs, at a size where its numbers mean nothing, and prints rows that can be read."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING

import pytest
from benchmarks.bench import Scale
from benchmarks.run import BENCHMARKS, run
from benchmarks.table import HEADINGS, as_json, as_markdown
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.table import Row

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,  # starts gateways, workers that import torch, and the peers
    pytest.mark.timeout(180),
]

TINY = Scale(
    rounds=1,
    large=300_000,
    gets=2,
    seconds=1,
    connections=2,
    photographs=3,
    naps=2,
    readers=(2,),
    slow_readers=(2,),
    workers=(2,),
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_runs_and_says_what_it_measured(name: str) -> None:
    output = io.StringIO()
    rows, complete = run({name: BENCHMARKS[name]}, TINY, Console(file=output, width=300))
    assert complete, output.getvalue()
    assert rows
    for row in rows:
        assert row.group == name
        assert math.isfinite(row.value)
        assert row.low <= row.value <= row.high
        assert row.value > 0 or name != "epochs", "both sides do work"
        assert row.what in output.getvalue()
    assert as_markdown(rows).count("\n") == len(rows) + 1
    assert [row["what"] for row in json.loads(as_json(rows, {}))["rows"]] == [row.what for row in rows]


def test_a_benchmark_that_fails_is_reported_and_the_others_go_on() -> None:
    def fails(_: object) -> Iterator[Row]:
        raise RuntimeError("no such peer")

    output = io.StringIO()
    rows, complete = run({"warm": fails, "herd": BENCHMARKS["herd"]}, TINY, Console(file=output))
    assert not complete
    assert "no such peer" in output.getvalue()
    assert {row.group for row in rows} == {"herd"}


def test_the_markdown_table_has_one_cell_per_heading() -> None:
    assert as_markdown([]).splitlines()[0].count("|") == len(HEADINGS) + 1
