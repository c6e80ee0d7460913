"""What a user sees who has installed one extra, and needs another."""

from __future__ import annotations

import os
import subprocess
import textwrap
from typing import TYPE_CHECKING

import pytest
from lean_venv import lean_venv

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("shardgate_gateway.app")
USES = """
    import shardgate
    with shardgate.embedded({"gcp://b": "."}) as client:
        client.put("gcp://b", "k", b"body")
        assert client.get("gcp://b", "k") == b"body"
        print(shardgate.BytesTransform(client, bytes.upper).get("gcp://b", "k"))
"""


def run(python: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment}
    return subprocess.run(
        [python, *words], cwd=python.parent, env=settings, capture_output=True, text=True, check=False
    )


def test_a_base_installation_names_the_extra_that_a_command_needs(tmp_path: Path) -> None:
    python = lean_venv(tmp_path / "base")
    assert run(python, "-m", "shardgate", "--version").returncode == 0
    for command, module, extra in (("serve", "aiohttp", "gateway"), ("demo", "aiohttp", "demo")):
        done = run(python, "-m", "shardgate", command)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"error: this needs {module}, which is not installed",
            f"hint: pip install 'shardgate[{extra}]'",
        ]


def test_a_gateway_alone_serves_objects_and_says_what_a_python_transform_needs(tmp_path: Path) -> None:
    python = lean_venv(tmp_path / "gateway", "gateway")
    assert run(python, "-c", "import kubernetes").returncode == 1
    done = run(python, "-c", textwrap.dedent(USES))
    assert "TransformFailed: a Python transform needs numpy, which is not installed" in done.stderr, done.stderr
    assert "pip install 'shardgate[runtime]'" in done.stderr
    done = run(python, "-m", "shardgate", "serve", SHARDGATE_ETL__RUNNER="kubernetes")
    assert done.returncode == 2
    assert "pip install 'shardgate[kubernetes]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gateway_with_the_runtime_runs_python_transforms(tmp_path: Path) -> None:
    done = run(lean_venv(tmp_path / "both", "gateway", "runtime"), "-c", textwrap.dedent(USES))
    assert done.stdout == "b'BODY'\n", done.stderr
