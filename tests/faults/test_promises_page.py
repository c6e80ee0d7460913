"""`docs/promises.md` names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCES = re.findall(r"`(?:([\w/]*test_\w+\.py))?(?:::(test_\w+))?`", (ROOT / "docs/promises.md").read_text())
FILES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def resolved() -> list[tuple[str, str]]:
    """File and test of every reference; one without a file means the file that was named last."""
    found, last = [], ""
    for file, name in REFERENCES:
        last = file or last
        found.append((last, name))
    return [reference for reference in dict.fromkeys(found) if reference != ("", "")]


@pytest.mark.parametrize(("file", "name"), resolved())
def test_a_promise_is_attacked_by_a_test_that_exists(file, name):
    texts = [text for path, text in FILES.items() if f"/{path}".endswith(f"/{file}")]
    assert texts
    assert not name or any(f"def {name}(" in text for text in texts)
