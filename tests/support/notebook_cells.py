"""Notebook cells run one after the other by a real kernel of IPython, without a browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

KERNEL_SECONDS = 100


def run_cells(cells: Iterable[str], home: Path) -> list[list[Any]]:
    """The outputs of each cell, as the notebook's file has them; a cell that raises has an "error" among them.

    nbclient and its kernel run in processes of their own, so that their warnings and threads stay out of ours.

    Args:
        cells: Source code.
        home: Folder for the kernel's own files, and where it runs.
    """
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    path = home / "notebook.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, __file__, str(path)]
    subprocess.run(command, cwd=home, check=True, timeout=KERNEL_SECONDS)
    return [cell.outputs for cell in nbformat.read(path, as_version=4).cells]


def pictures(outputs: list[Any]) -> int:
    """How many pictures the outputs of a cell show."""
    return sum("image/png" in output.get("data", {}) for output in outputs)


def text(outputs: list[Any]) -> str:
    """What the outputs of a cell say: prints, results and tracebacks."""
    parts = [
        "\n".join(output.get("traceback", [])) + output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for output in outputs
    ]
    return "\n".join(parts)


def _execute(path: Path) -> None:
    import os

    import nbformat
    from nbclient import NotebookClient

    folder = str(path.parent / "jupyter")
    Path(folder).mkdir(exist_ok=True)
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    os.environ.update({name: f"{folder}/{name.lower()}" for name in names}, JUPYTER_PLATFORM_DIRS="1", NO_COLOR="1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute()
    nbformat.write(notebook, path)


if __name__ == "__main__":
    _execute(Path(sys.argv[1]))
