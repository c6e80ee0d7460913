"""Measure, and print the table: `python -m benchmarks.run [--only NAME]... [--quick] [--json FILE]
[--markdown PAGE]`.

Exits with 0 whether aims are met or not: a missed aim is a finding, not a failure. A benchmark that can't run says why,
and the others go on; the exit status is then 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from benchmarks import cold, epochs, herd, memory, policies, scaling, transform, warm
from benchmarks.bench import FULL, QUICK, Bench, Scale
from benchmarks.table import Row, as_json, as_table, into_page, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Benchmarks = Mapping[str, Callable[[Bench], Iterator[Row]]]

PAGE = 220
"""Columns of the table where nobody says how wide a page is."""

BENCHMARKS: Benchmarks = {
    "warm": warm.measure,
    "cold": cold.measure,
    "herd": herd.measure,
    "transform": transform.measure,
    "scaling": scaling.measure,
    "epochs": epochs.measure,
    "policies": policies.measure,
    "memory": memory.measure,
}


def run(benchmarks: Benchmarks, scale: Scale, console: Console) -> tuple[list[Row], bool]:
    """The rows of these benchmarks, and whether all of them could run."""
    rows: list[Row] = []
    complete = True
    for measure in benchmarks.values():
        with tempfile.TemporaryDirectory(prefix="shardgate-bench-", ignore_cleanup_errors=True) as root:
            try:
                for row in measure(Bench(scale, Path(root))):
                    console.print(" · ".join(row.cells()), markup=False, soft_wrap=True)
                    rows.append(row)
            except Exception:  # noqa: BLE001  whatever stops one benchmark must not stop the others
                complete = False
                console.print_exception()
    return rows, complete


Only = Annotated[list[str] | None, typer.Option(help="A group of rows; may be repeated. All, if none is given.")]
Quick = Annotated[bool, typer.Option(help="Fewer turns and smaller shards: minutes, and a wider spread.")]
Json = Annotated[Path | None, typer.Option(help="Write rows and machine as JSON.")]
Markdown = Annotated[Path | None, typer.Option(help="Put the table into this page, between its result marks.")]


def publish(
    program: str,
    benchmarks: Benchmarks,
    *,
    only: list[str] | None,
    quick: bool,
    json: Path | None,
    markdown: Path | None,
    marks: str = "results",
) -> NoReturn:
    """Run what was chosen, print it, write it where it was asked for, and exit.

    Args:
        program: Its module, for the page.
        benchmarks: What there is to choose from.
        only, quick, json, markdown: The options of its command line.
        marks: The name of the page's result marks.
    """
    names = only or list(benchmarks)
    if unknown := set(names) - set(benchmarks):
        raise typer.BadParameter(
            f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(benchmarks)}"
        )
    console = Console() if sys.stdout.isatty() else Console(width=PAGE)
    about = machine()
    rows, complete = run({name: benchmarks[name] for name in names}, QUICK if quick else FULL, console)
    console.print(as_table(rows))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()), markup=False)
    if json:
        json.write_text(as_json(rows, about) + "\n")
    if markdown:
        command = " ".join(["python -m", program, *(f"--only {name}" for name in only or ()), *["--quick"] * quick])
        markdown.write_text(into_page(markdown.read_text(), rows, about, command, name=marks))
    raise typer.Exit(0 if complete else 1)


def main(only: Only = None, quick: Quick = False, json: Json = None, markdown: Markdown = None) -> None:
    publish("benchmarks.run", BENCHMARKS, only=only, quick=quick, json=json, markdown=markdown)


if __name__ == "__main__":
    typer.run(main)
