"""Counts what breaks the rules of `docs/writing.md` that a program can see: `python tests/support/words.py [--update]`.

The counts of each file stand in `words.json`. A file may have fewer than that, and then `--update` writes the lower
number; a new file has none to begin with.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("words.json")
CODE = ("gateway", "client", "etl_runtime")
COINED = re.compile(r"\b(told|whoever|anew)\b", re.IGNORECASE)
NAMES = re.compile(r"(^|_)(told|said|hear|heard|thing|things|adopt)(_|$)")
HEADLESS = re.compile(r"(?:^|(?<=[.:] )|(?<=\n))(?:Who|What|Whose|Whoever)\b[^.?]*[.]")


def prose(source: str) -> Iterator[str]:
    """Docstrings, docstrings of constants, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def names(source: str) -> Iterator[str]:
    """What the code calls its functions, classes, arguments and variables."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def breaches(path: str, text: str) -> int:
    """How often a file breaks a rule."""
    if path.endswith(".md"):
        return len(COINED.findall(text)) + len(HEADLESS.findall(text))
    found = sum(len(COINED.findall(piece)) + len(HEADLESS.findall(piece)) for piece in prose(text))
    return found + sum(1 for name in names(text) if NAMES.search(name.lower()))


def counts() -> dict[str, int]:
    """Of every file that the rules are for, where there are any."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    paths = [path for path in listed if _is_ours(path) and (ROOT / path).exists()]
    return {path: count for path in paths if (count := breaches(path, (ROOT / path).read_text()))}


def _is_ours(path: str) -> bool:
    if path.endswith(".md"):
        return path not in {"docs/writing.md", "CHANGELOG.md"}
    return path.endswith(".py") and path.startswith(CODE)


def main() -> int:
    known: dict[str, int] = json.loads(KNOWN.read_text())
    now = counts()
    worse = {path: count for path, count in now.items() if count > known.get(path, 0)}
    if worse and "--update" not in sys.argv:
        for path, count in worse.items():
            print(f"{path}: {count} breaches of docs/writing.md, and {known.get(path, 0)} are known")
        return 1
    if "--update" in sys.argv:
        KNOWN.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
