"""Find the programs that tests talk to, and install those that are missing.

A program is looked for on PATH, then in the tool cache (`$SHARDGATE_TOOLS`, default `~/.cache/shardgate/tools`), and
is else installed there at a pinned version by the package manager it comes from. Where that fails a test fails under
CI and is skipped elsewhere, with the reason: see `require`. An OS lock keeps parallel test processes from installing
the same thing twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOOLS = Path(os.environ.get("SHARDGATE_TOOLS", "~/.cache/shardgate/tools")).expanduser()
LIBRARIES = Path("/usr/lib")
"""Where Debian keeps programs of which there may be several versions."""
INSTALL_SECONDS = 900
"""A cold Go build of the largest of them takes two minutes on a small machine."""


class ToolMissingError(Exception):
    """A program is neither there nor installable; the message says why."""


@dataclass(frozen=True)
class Tool:
    """One program: its name, where in the tool cache or below `/usr/lib` it lies, and what installs it there."""

    name: str
    place: str
    install: Callable[[Tool], None]
    source: str

    def find(self) -> Path | None:
        if found := shutil.which(self.name):
            return Path(found)
        kept = (found for root in (TOOLS, LIBRARIES) for found in sorted(root.glob(self.place), reverse=True))
        return next(kept, None)


def _run(*command: str, **environment: str) -> None:
    if shutil.which(command[0]) is None:
        raise ToolMissingError(f"{command[0]} is not installed, so {' '.join(command)} can't run")
    result = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if result.returncode:
        raise ToolMissingError(f"{' '.join(command)} failed: {(result.stderr or result.stdout)[-2000:]}")


def _go(tool: Tool) -> None:
    """Build in a folder of its own: Go names the program after its module path, which need not be the tool's name."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        _run("go", "install", tool.source, GOBIN=folder)
        (built,) = Path(folder).iterdir()
        built.rename(TOOLS / tool.place)


def _npm(tool: Tool) -> None:
    _run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(TOOLS / "npm"), tool.source)


def _apt(tool: Tool) -> None:
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    _run(*root, "apt-get", "update", "-q")  # a new machine knows no packages, or old ones
    _run(*root, "apt-get", "install", "-y", "--no-install-recommends", tool.source, DEBIAN_FRONTEND="noninteractive")


CATALOGUE = {
    tool.name: tool
    for tool in (
        Tool("versitygw", "versitygw", _go, "github.com/versity/versitygw/cmd/versitygw@v1.8.0"),
        Tool("minio", "minio", _go, "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"),
        Tool("fake-gcs-server", "fake-gcs-server", _go, "github.com/fsouza/fake-gcs-server@v1.52.2"),
        Tool("toxiproxy-server", "toxiproxy-server", _go, "github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0"),
        Tool("kubeconform", "kubeconform", _go, "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0"),
        Tool("kube-score", "kube-score", _go, "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"),
        Tool("kwok", "kwok", _go, "sigs.k8s.io/kwok/cmd/kwok@v0.7.0"),
        Tool("helm-docs", "helm-docs", _go, "github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2"),
        Tool("azurite-blob", "npm/node_modules/.bin/azurite-blob", _npm, "azurite@3.35.0"),
        Tool("nginx", "nginx", _apt, "nginx-light"),
        Tool("postgres", "postgresql/*/bin/postgres", _apt, "postgresql"),
        Tool("wrk", "wrk", _apt, "wrk"),
        Tool("curl", "curl", _apt, "curl"),
    )
}


@contextmanager
def _install_lock() -> Iterator[None]:
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def find_or_install(name: str) -> Path:
    """Path of a program of the catalogue.

    Raises:
        ToolMissingError: It could not be installed.
    """
    tool = CATALOGUE[name]
    if found := tool.find():
        return found
    with _install_lock():
        if not tool.find():  # another process may have installed it while this one waited
            tool.install(tool)
    if found := tool.find():
        return found
    raise ToolMissingError(f"{tool.source} installed no {name}")


def require(name: str) -> Path:
    """`find_or_install` for tests: what is missing fails the test under CI and skips it elsewhere."""
    try:
        return find_or_install(name)
    except ToolMissingError as error:
        if "PYTEST_CURRENT_TEST" not in os.environ:
            raise
        import pytest

        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
