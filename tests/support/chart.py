"""Helm and the chart, for tests that render it and tests that install it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "shardgate"
HELM = str(Path(sys.executable).with_name("helm"))


def run_helm(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run helm; its failure is the caller's to judge."""
    command = [HELM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def render(*files: Path, release: str = "shardgate", **values: Any) -> list[dict[str, Any]]:
    """The chart's objects with these value files and values: `render(**{"service.type": "NodePort"})`."""
    result = run_helm("template", release, CHART, "--namespace", "ns", *value_flags(*files, **values))
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def refusal(**values: Any) -> str:
    """What helm says when it refuses these values."""
    result = run_helm("template", "shardgate", CHART, *value_flags(**values))
    assert result.returncode != 0, "helm took the values"
    return result.stderr


def value_flags(*files: Path, **values: Any) -> list[str]:
    named = [flag for path in files for flag in ("--values", str(path))]
    return named + [flag for name, value in values.items() for flag in ("--set-json", f"{name}={json.dumps(value)}")]


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of this kind and name."""
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def load_generator() -> Any:
    """`deploy/generate.py` as a module."""
    spec = importlib.util.spec_from_file_location("deploy_generate", ROOT / "deploy" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
