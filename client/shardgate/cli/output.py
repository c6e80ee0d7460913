"""What the commands print: tables and bars for people, JSON for programs, errors as one message and a hint.

Results go to stdout and everything else to stderr, so that a pipe gets results only.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from shardgate.cli.units import size_text, value_text
from shardgate.errors import GatewayError, GatewayUnreachable, NotFound, ShardgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FAILED, UNREACHABLE, NOT_FOUND = 1, 3, 4
"""Exit codes; 2 is a wrong command line, 130 an interrupt."""


def print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows of cells. A terminal gets them folded to its width; a pipe gets each row on one line, and nothing is cut."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _print_plain([list(columns), *cells] if any(columns) else cells)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    Console().print(table)


def print_pairs(data: dict[str, Any]) -> None:
    """A record, one field a line; nested records are indented by their name."""
    print_table(["", ""], ([name, value_text(name, value)] for name, value in _flat(data)))


def _print_plain(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    margin = "\n" + " " * (sum(widths) + 2 * len(widths))
    for *row, last in rows:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join((*padded, last.replace("\n", margin))).rstrip() + "\n")


def print_warning(message: str, hint: str = "") -> None:
    """Say on stderr what is no failure of this command, and what can be done."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold yellow]warning:[/] {escape(message)}")
    if hint:
        console.print(f"[bold]hint:[/] {escape(hint)}")


def print_error(error: Exception) -> int:
    """Say what went wrong on stderr, and return the exit code for it."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    message = error.message if isinstance(error, ShardgateError) else _told(error)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if isinstance(error, ShardgateError) and error.hint:
        console.print(f"[bold]hint:[/] {escape(error.hint)}")
    if isinstance(error, GatewayError) and error.request_id:
        console.print(f"[dim]request: {escape(error.request_id)}[/]")
    if isinstance(error, GatewayUnreachable):
        return UNREACHABLE
    return NOT_FOUND if isinstance(error, NotFound) else FAILED


def _told(error: Exception) -> str:
    """An error of the system, without its number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextmanager
def byte_bar(title: str, total: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes; call what it yields with the bytes so far and the total."""
    columns = (TextColumn("{task.description}"), _Bar(), _Amount(), _Speed())
    console = Console(stderr=True)
    # In a pipe it would be an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(title), total=total)
        yield lambda done, size: progress.update(task, completed=done, total=size)


@contextmanager
def count_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of things done; call what it yields after each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    # In a pipe it would be an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(title), total=total)
        yield lambda: progress.advance(task)


class _Bar(BarColumn):
    """A bar where the end is known; a full-looking one would say that it is near."""

    def render(self, task: Task) -> Any:
        return Text() if task.total is None else super().render(task)


class _Amount(ProgressColumn):
    """Bytes so far, in the units of the result."""

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f" of {size_text(task.total)}"
        return Text(size_text(task.completed) + of, style="progress.download")


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{size_text(speed)}/s", style="progress.data.speed")


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
