"""A tiny package index: wheels made on the spot, on a page of links that pip takes with `--find-links`."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from http_lab import Web


def publish(index: Web, name: str, version: str, modules: Mapping[str, str], requires: Sequence[str] = ()) -> None:
    """Add a wheel of pure Python to the index at `/`."""
    stem = f"{name.replace('-', '_')}-{version}"
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    files = {
        **modules,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        for path, text in {**files, f"{stem}.dist-info/RECORD": record}.items():
            wheel.writestr(path, text)
    index.files[f"/{stem}-py3-none-any.whl"] = stream.getvalue()
    links = "".join(f'<a href="{path}">{path[1:]}</a>\n' for path in index.files if path.endswith(".whl"))
    index.files["/"] = f"<!DOCTYPE html><html><body>\n{links}</body></html>".encode()


def options_for(index: Web, host: str) -> list[str]:
    """What makes pip look there and nowhere else."""
    return ["--no-index", f"--find-links={index.url}/", f"--trusted-host={host}"]
