"""The rows of the result table, as text, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.harness import Comparison

Direction = Literal["≤", "≥"]


@dataclass(frozen=True, slots=True)
class Aim:
    """The value that a row is to reach."""

    direction: Direction
    bound: float

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.direction == "≤" else value >= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One measured ratio (or difference).

    Attributes:
        group: Name of the benchmark that made it, as in `--only`.
        what: Measured quantity of ours.
        against: What it is divided by, or what is subtracted.
        value: Median over the turns. low, high: smallest and largest turn.
        unit: `x` for a ratio, else the unit of the value.
        aim: None where the row only informs.
        detail: Medians of both sides with their units.
    """

    group: str
    what: str
    against: str
    value: float
    low: float
    high: float
    unit: str = "x"
    aim: Aim | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.aim is None:
            return "-"
        return "met" if self.aim.met_by(self.value) else "missed"

    def cells(self) -> list[str]:
        spread = f"{self.low:.3g} to {self.high:.3g}"
        aim = f"{self.aim.direction} {self.aim.bound:g} {self.unit}" if self.aim else "-"
        return [self.what, self.against, f"{self.value:.3g} {self.unit}", spread, aim, self.verdict, self.detail]


HEADINGS = ("what", "against", "measured", "turns", "aim", "", "medians")


def ratio_row(
    group: str,
    what: str,
    against: str,
    comparison: Comparison,
    *,
    aim: Aim | None = None,
    unit: str = "",
    scale: float = 1,
) -> Row:
    """A row for ours / theirs; `scale` and `unit` only dress the medians in `detail`."""
    ratios = comparison.ratios
    ours, theirs = comparison.medians()
    detail = f"{ours * scale:.3g} / {theirs * scale:.3g} {unit}".strip()
    return Row(group, what, against, statistics.median(ratios), min(ratios), max(ratios), "x", aim, detail)


def value_row(
    group: str, what: str, against: str, values: Sequence[float], unit: str, *, aim: Aim | None = None, detail: str = ""
) -> Row:
    return Row(group, what, against, statistics.median(values), min(values), max(values), unit, aim, detail)


def as_table(rows: Sequence[Row]) -> Table:
    table = Table(*HEADINGS)
    last = ""
    for row in rows:
        if row.group != last:
            table.add_section()
        last = row.group
        colour = {"met": "green", "missed": "red"}.get(row.verdict, "")
        table.add_row(*row.cells(), style=colour)
    return table


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def into_page(page: str, rows: Sequence[Row], machine: dict[str, str], command: str, *, name: str = "results") -> str:
    """The page with the results of this name replaced; ValueError if it does not say where they stand."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, marked, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not marked or not closed:
        raise ValueError(f"the page holds no {begin} and {end}")
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    results = f"`{command}` on {facts}.\n\n{as_markdown(rows)}"
    return f"{before}{begin}\n\n{results}\n\n{end}{after}"


def as_json(rows: Sequence[Row], machine: dict[str, str]) -> str:
    return json.dumps({"machine": machine, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}, indent=2)


def machine() -> dict[str, str]:
    """What a reader needs to know to judge the absolute numbers in the details."""
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _git("describe", "--always", "--dirty"),
        "processor": processor,
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": f"Linux {platform.release()}",
        "python": platform.python_version(),
    }


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
