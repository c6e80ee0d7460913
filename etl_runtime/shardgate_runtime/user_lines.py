"""Lines of the user's source, for tracebacks and messages.

Code that travels by value has no file: its frames are named after the function, `<wd_transform>`, and its lines are
counted from the first one of the function (`shardgate.pickling`). The manifest holds the source of the function or
class that was captured, so `linecache` is told those lines under that name, and every traceback shows them.
"""

from __future__ import annotations

import ast
import linecache
from typing import TYPE_CHECKING

from shardgate.text import safe_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, TracebackType

SHOWN = 200
"""Characters of a line."""
MAX_FRAMES = 2000
"""Of a traceback that are looked at: endless recursion has many."""


def remember(entry: str, source: str) -> None:
    """Let `linecache` know the source of a captured function or class.

    Args:
        entry: Its qualified name.
        source: As `inspect.getsource` has it, dedented; "" where it is not known.
    """
    lines = source.splitlines(keepends=True)
    try:
        first_lines = dict(_first_lines(ast.parse(source), entry))
    except (SyntaxError, ValueError, RecursionError):  # part of a statement, as a lambda's source may be
        first_lines = {entry: 1} if len(lines) == 1 else {}
    for name, first in first_lines.items():
        shown = lines[first - 1 :]
        linecache.cache[f"<{name}>"] = (len(source), None, shown, f"<{name}>")


def _first_lines(tree: ast.Module, entry: str) -> Iterator[tuple[str, int]]:
    """The functions that are pickled one by one, with their first lines; inner ones are part of theirs."""
    if entry.endswith("<lambda>"):
        lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        if len(lambdas) == 1:
            yield entry, lambdas[0].lineno
        return
    waiting = [(node, entry) for node in tree.body[:1]]
    while waiting:
        node, name = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        elif isinstance(node, ast.ClassDef):
            inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            waiting += [(child, f"{name}.{child.name}") for child in node.body if isinstance(child, inner)]


def place_of(error: BaseException) -> str:
    """Where in the user's code an error was raised, like "line 4 of buggy: `ratio = 1 / n`"; "" outside of it."""
    found, name, line = error.__traceback__, "", 0
    for _ in range(MAX_FRAMES):
        if found is None:
            break
        if own := _travelled(found.tb_frame.f_code):
            name, line = own, _line(found)
        found = found.tb_next
    if not name:
        return ""
    text = safe_line(linecache.getline(f"<{name}>", line).strip(), SHOWN)
    return f"line {line} of {safe_line(name.rpartition('.<locals>.')[2], SHOWN)}" + (f": `{text}`" if text else "")


def _line(trace: TracebackType) -> int:
    return trace.tb_lineno or 0


def _travelled(code: CodeType) -> str:
    """The name of the function that code came with by value, or ""."""
    outer, own = code.co_filename[1:-1], code.co_qualname
    return outer if code.co_filename == f"<{outer}>" and (own == outer or own.startswith(f"{outer}.")) else ""
