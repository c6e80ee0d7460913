"""A virtual environment that has this distribution with some of its extras, and nothing else.

Nothing is installed: it links to what this environment has of the distributions that those extras require. So a test
sees what a user sees after `pip install 'shardgate[gateway]'`, in a second and without a network.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def lean_venv(folder: Path, *extras: str) -> Path:
    """Make it, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for found in _closure("shardgate", extras).values():
        for path in _tops(found):
            target = site / path.name
            if not target.exists():
                target.symlink_to(path)
    return folder / "bin" / "python"


def _closure(name: str, extras: tuple[str, ...]) -> dict[str, Distribution]:
    """The distributions that one with these extras requires, and itself."""
    found: dict[str, Distribution] = {}
    waiting, seen = [(canonicalize_name(name), frozenset(extras))], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        name, wanted = one
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # another platform's
        for text in found[name].requires or ():
            required = Requirement(text)
            if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                waiting.append((canonicalize_name(required.name), frozenset(required.extras)))
    return found


def _tops(found: Distribution) -> set[Path]:
    """The files and folders of a distribution that lie in site-packages itself."""
    site = Path(str(found.locate_file("")))
    names = {file.parts[0] for file in found.files or () if file.parts[0] not in {"..", "__pycache__"}}
    return {site / name for name in names if (site / name).exists()}
