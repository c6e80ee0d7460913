"""What the commands print: tables and bars for people, JSON for programs, errors as one message and a hint.

Results go to stdout and everything else to stderr, so that a pipe gets results only.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from shardgate.errors import GatewayError, GatewayUnreachable, NotFound, ShardgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FAILED, UNREACHABLE, NOT_FOUND = 1, 3, 4
"""Exit codes; 2 is a wrong command line, 130 an interrupt."""
STEP = 1024


def print_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console(soft_wrap=True).print(table)


def print_pairs(data: dict[str, Any]) -> None:
    """A record, one field a line; nested records are indented by their name."""
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    for name, value in _flat(data):
        table.add_row(escape(name), escape(str(value)))
    Console(soft_wrap=True).print(table)


def print_warning(message: str, hint: str) -> None:
    """Say on stderr what is no failure of this command, and what can be done."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold yellow]warning:[/] {escape(message)}")
    console.print(f"[bold]hint:[/] {escape(hint)}")


def print_error(error: Exception) -> int:
    """Say what went wrong on stderr, and return the exit code for it."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    message = error.message if isinstance(error, ShardgateError) else str(error)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if isinstance(error, ShardgateError) and error.hint:
        console.print(f"[bold]hint:[/] {escape(error.hint)}")
    if isinstance(error, GatewayError) and error.request_id:
        console.print(f"[dim]request: {escape(error.request_id)}[/]")
    if isinstance(error, GatewayUnreachable):
        return UNREACHABLE
    return NOT_FOUND if isinstance(error, NotFound) else FAILED


@contextmanager
def byte_bar(title: str, total: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes; call what it yields with the bytes so far and the total."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(title), total=total)
        yield lambda done, size: progress.update(task, completed=done, total=size)


@contextmanager
def count_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of things done; call what it yields after each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(title), total=total)
        yield lambda: progress.advance(task)


def size_text(size: float | None) -> str:
    if size is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < STEP or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= STEP
    raise AssertionError


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else value
