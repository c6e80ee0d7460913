"""The command as another process sees it: whole names in pipes and on narrow terminals, completion, and -h."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from fake_gateway import FakeGateway

LONG = "experiments/2026-11-27/" + "run-with-a-fairly-long-description-" * 5 + "[x].tar"
COMMAND = [sys.executable, "-m", "shardgate"]


def output_of(*words: str, **environment: str) -> str:
    settings = {**os.environ, "COLUMNS": "60", "NO_COLOR": "1", "TERM": "xterm", **environment}
    return subprocess.run([*COMMAND, *words], env=settings, capture_output=True, text=True, check=True).stdout


def terminal_of(*words: str, stream: str) -> str:
    """What the command writes to a terminal of 60 columns that is its stdout or stderr."""
    ours, theirs = pty.openpty()
    settings = {**os.environ, "COLUMNS": "60", "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *words], env=settings, **{stream: theirs}) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # how a terminal says that the other side is gone
            pass
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_a_pipe_gets_whole_names(gateway: FakeGateway) -> None:
    gateway.objects[f"gcp://b/{LONG}"] = b"12345"
    assert f"  {LONG}\n" in output_of("ls", "gcp://b")
    assert LONG in output_of("ls", "gcp://b", FORCE_COLOR="1")
    gateway.packages["loud-0"] = b""
    gateway.facts = {
        "source": "def f(sample):\n    return sample\n",
        "digest": "0123456789abcdef" * 4,
        "created_at": "2026-11-27T13:24:17.552973+00:00",
    }
    shown = output_of("etl", "show", "loud-0")
    assert gateway.facts["digest"] in shown
    first, second = (shown.partition(line)[0].rpartition("\n")[2] for line in ("def f", "return sample"))
    assert len(second) == len(first) + 4, "the lines of a cell stay below each other"


def test_a_narrow_terminal_folds_names_and_cuts_none(gateway: FakeGateway) -> None:
    gateway.objects[f"gcp://b/{LONG}"] = b"12345"
    shown = terminal_of("ls", "gcp://b", stream="stdout")
    assert "…" not in shown
    assert LONG in re.sub(r"\s", "", shown)


@pytest.mark.parametrize("chunked", [True, False])
def test_bar_and_result_are_in_the_same_units(
    gateway: FakeGateway, tmp_path_factory: pytest.TempPathFactory, chunked: bool
) -> None:
    gateway.objects["gcp://b/k"] = b"x" * 3_000_000
    gateway.chunked = chunked
    target = tmp_path_factory.mktemp("got") / "k"
    shown = terminal_of("get", "gcp://b/k", str(target), stream="stderr")
    assert "2.9 MiB" in shown
    assert not re.search(r"[kM]B|/\?", shown)
    assert ("━" in shown) is not chunked, "a bar without a known end looks full"


@pytest.mark.parametrize(
    "words", [(), ("get",), ("etl",), ("etl", "init"), ("cache", "prefetch"), ("demo",), ("serve",)]
)
def test_each_command_has_a_short_help_flag_and_plain_arguments(words: tuple[str, ...]) -> None:
    shown = output_of(*words, "-h")
    assert "Usage: shardgate" in shown
    assert not re.search(r"\[\[|\.\.\.\}|\[default: \(", shown)


def test_the_version_is_told() -> None:
    assert output_of("--version") == f"shardgate {version('shardgate')}\n"


def test_a_shell_can_complete_commands() -> None:
    completed = output_of(_SHARDGATE_COMPLETE="complete_bash", COMP_WORDS="shardgate etl st", COMP_CWORD="2")
    assert completed.split() == ["stats", "start", "stop"]
    assert "complete_bash" in output_of("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")


def test_a_warning_is_a_message_like_any_other(gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "etl.py").write_text("def f(sample):\n    return sample if sample else nowhere(sample)\n")
    done = subprocess.run(
        [*COMMAND, "etl", "init", "etl.py:f"],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "warning: f uses nowhere, which is not defined; it fails where it gets there\n"
    assert done.stdout.strip() in gateway.packages
