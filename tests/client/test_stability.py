"""What makes an id differ from process to process is found and named."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from shardgate import CaptureError
from shardgate.cli.etl import check
from shardgate.stability import compare

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
    import uuid
    WORDS = {word: number for number, word in enumerate({"a", "b", "c", "d", "e", "f", "g"})}
    class Holder:
        def __init__(self): self.key = hash("name")
    HOLDER, NAME, LENGTH = Holder(), uuid.uuid4().hex, {1, 2, 3}
    def stable(sample): return LENGTH
    def ordered(sample): return WORDS
    def salted(sample): return HOLDER.key
    def drawn(sample): return NAME
    def broken(sample): return HOLDER, lock
    lock = __import__("threading").Lock()
    print("a word of the user's")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "etl.py").write_text(textwrap.dedent(SOURCE))
    return tmp_path / "etl.py"


def test_one_id_is_said_to_be_one(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare(f"{script}:stable")
    assert comparison.is_stable
    assert comparison.difference == ""
    check(f"{script}:stable")
    assert capsys.readouterr().out == f"{comparison.ids[0]} in each process\n"


@pytest.mark.parametrize(
    ("function", "place"),
    [
        ("ordered", "`ordered` → global `WORDS`"),
        ("salted", "`salted` → global `HOLDER` → attribute `key`"),
        ("drawn", "`drawn` → global `NAME`"),
    ],
)
def test_a_value_that_differs_from_process_to_process_is_named(script: Path, function: str, place: str) -> None:
    comparison = compare(f"{script}:{function}")
    assert not comparison.is_stable
    assert comparison.difference.startswith(place)
    with pytest.raises(CaptureError, match=f"They differ in {place}"):
        check(f"{script}:{function}")


def test_what_cannot_be_captured_is_an_error(script: Path) -> None:
    with pytest.raises(CaptureError, match="global `lock` of type _thread"):
        compare(f"{script}:broken")
    with pytest.raises(CaptureError, match="has no 'absent'"):
        compare(f"{script}:absent")
