"""The rules of `docs/writing.md` that a program can see."""

from __future__ import annotations

import pytest
from words import breaches, main


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""Who comes first is served."""\n', 1),
        ('"""The first one is served. What it gets stays."""\n', 1),
        ('"""What is it?"""\n', 0),
        ("x = 1  # the reader is told\n", 1),
        ("told = 1\n", 1),
        ("def hear_others(things): ...\n", 2),
        ('x = "told"\n', 0),
        ("import somethings\nmythinghy = 1\n", 0),
    ],
)
def test_what_breaks_a_rule_is_counted(text: str, count: int) -> None:
    assert breaches("gateway/a.py", text) == count


def test_prose_of_docs_is_counted() -> None:
    assert breaches("docs/a.md", "Readers are told.\nWho asks gets it. What for?\n") == 2


def test_no_file_got_worse() -> None:
    assert main() == 0
