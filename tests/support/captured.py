"""A script that is captured in two processes with nothing in common, and run in a third that does not have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CAPTURE = """

if __name__ == "__main__":
    import json, sys
    from shardgate import CaptureError
    from shardgate.pickling import dumps

    def captured(function):
        try:
            return dumps(function).data.hex(), ""
        except CaptureError as error:
            return "", str(error)

    json.dump({n: captured(f) for n, f in list(globals().items()) if n.startswith("f_")}, sys.stdout)
"""
CALL = """
import json, pickle, sys
for name, data in json.load(sys.stdin).items():
    try:
        print(json.dumps([name, pickle.loads(bytes.fromhex(data))()]), flush=True)
    except Exception as error:
        print(json.dumps([name, f"{type(error).__name__}: {error}"]), flush=True)
"""


@dataclass(frozen=True)
class Captured:
    """By the names of the functions.

    Attributes:
        first: What the one process sent.
        second: What the other process sent.
        refusals: Errors of those that were not sent.
        results: What the functions return where they arrived; an error as text.
    """

    first: dict[str, bytes]
    second: dict[str, bytes]
    refusals: dict[str, str]
    results: dict[str, Any]


def capture_script(folder: Path, source: str) -> Captured:
    """Capture all functions whose name begins with `f_`, under two hash seeds, in two environments."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source) + CAPTURE)
    sent = [_captured_by(script, number) for number in (1, 2)]
    first, second = ({name: bytes.fromhex(data) for name, (data, _) in found.items()} for found in sent)
    texts = {name: data.hex() for name, data in first.items() if data}
    done = _run(["-c", CALL], cwd="/", input=json.dumps(texts))
    results = dict(json.loads(line) for line in done.splitlines())
    return Captured(first, second, {name: error for name, (_, error) in sent[0].items() if error}, results)


def _captured_by(script: Path, number: int) -> dict[str, list[str]]:
    environment = {**os.environ, "PYTHONHASHSEED": str(number), "A_SECRET": f"hunter2-{number}", "SHLVL": str(number)}
    found: dict[str, list[str]] = json.loads(_run([str(script)], cwd=str(script.parent), env=environment))
    return found


def _run(arguments: list[str], **options: Any) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout
