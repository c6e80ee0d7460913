"""What a user reads when a function of theirs fails: their own line, the sample, and what to do, on one screen."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from shards import tar_of

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import shardgate

def helper(n):
    return 1 / (n - 3)

def buggy(sample):
    # a comment is a line, too
    sample["cls"] = helper(
        int(sample["cls"])
    )
    return sample

class Model:
    def __call__(self, sample):
        return sample["png"]

with shardgate.embedded({"gcp://b": "data"}) as client:
    __CALL__
"""


def stderr_of(call: str, folder: Path) -> str:
    (folder / "program.py").write_text(PROGRAM.replace("__CALL__", call))
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "s.tar").write_bytes(tar_of({f"{n:07d}.cls": b"%d" % n for n in range(9)}))
    command, settings = [sys.executable, "program.py"], {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("call", "said", "advice"),
    [
        (
            'shardgate.WDTransform(client, buggy).get("gcp://b", "s.tar")',
            'division by zero (sample 3, "0000003", of gcp://b/s.tar), at line 2 of helper',
            '`shardgate etl logs buggy` has the traceback, and on_error="skip" leaves such samples out',
        ),
        (
            'shardgate.WDTransform(client, Model).get("gcp://b", "s.tar")',
            '(sample 0, "0000000", of gcp://b/s.tar), at line 2 of Model.__call__: `return sample["png"]`',
            "the sample has the fields cls; `shardgate etl logs model` has the traceback",
        ),
        (
            'shardgate.BytesTransform(client, lambda data: data.nothing).get("gcp://b", "s.tar")',
            "(in gcp://b/s.tar), at line 1 of <lambda>: `shardgate.BytesTransform(client, lambda data: data.nothing)",
            "hint: `shardgate etl logs lambda` has the traceback",
        ),
    ],
)
def test_an_error_of_a_function_shows_its_line_the_sample_and_what_to_do(
    tmp_path: Path, call: str, said: str, advice: str
) -> None:
    printed = stderr_of(call, tmp_path)
    assert said in printed, printed
    assert advice in printed, printed
    assert len(printed.splitlines()) <= 14, printed
    assert "urllib3" not in printed


def test_the_log_shows_the_lines_of_a_function_that_failed(tmp_path: Path) -> None:
    printed = stderr_of(
        """
    import sys
    etl = shardgate.WDTransform(client, buggy, on_error="warn")
    etl.get("gcp://b", "s.tar")
    print(etl.logs(), file=sys.stderr)""",
        tmp_path,
    )
    assert 'File "<buggy>", line 3, in buggy\n    sample["cls"] = helper(\n' in printed, printed


@pytest.mark.parametrize("call", ['get("gcp://b", "k")', "buckets()", 'transforms.show("t")'])
def test_a_gateway_that_is_down_is_no_screenful(tmp_path: Path, call: str) -> None:
    printed = stderr_of(f'shardgate.Client("http://127.0.0.1:1").{call}', tmp_path)
    assert "GatewayUnreachable: no answer from http://127.0.0.1:1" in printed
    assert "is `shardgate serve` running" in printed
    assert len(printed.splitlines()) <= 12, printed
