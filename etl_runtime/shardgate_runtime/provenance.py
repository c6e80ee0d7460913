"""What the bytes of a result depend on beside package and request: the environment of the worker that makes them.

A result is known by it (the gateway makes a *generation* of it), and a stream is continued only by a worker whose
environment is equal. So whatever can change a byte belongs here: Python, the distributions that the package requires
with all that those require, ours, the kind of machine, and the format of our own code.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

from shardgate.text import safe_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RESULT_FORMAT = 3
"""Raise it with every change of this package that changes a byte of any result: seeds, decoders, encoders, tar."""

OPTIONS_VARIABLE = "SHARDGATE_OPTIONS"
"""By which the gateway says with which options it started this: a digest of those that can change a byte."""
OWN = ("numpy", "pillow", "webdataset")
"""What decodes and encodes every transform's samples."""
SHOWN = 64
"""Requirements that are listed with their versions; the checksum covers all."""


def environment_of(requirements: Iterable[str]) -> dict[str, str]:
    """This process's environment, as `wire.Hello.environment` has it: a few readable entries, and a checksum of all.

    Args:
        requirements: Of the package, like "torch==2.6.0".
    """
    named = sorted({_normal(name) for name in (*map(_name, requirements), *OWN) if name})
    versions = dict(_closure(named))
    everything = "\n".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return {
        "python": platform.python_version(),
        "format": str(RESULT_FORMAT),
        "machine": f"{sys.platform} {platform.machine()} {_accelerator()}",
        "options": safe_line(os.environ.get(OPTIONS_VARIABLE, ""), 80),
        "distributions": hashlib.blake2b(everything.encode(), digest_size=8).hexdigest(),
        **{name: versions[name] for name in named[:SHOWN] if name in versions},
    }


def _closure(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """These distributions, and all that they require, with their versions; what is not installed is left out."""
    waiting, seen = list(names), set(names)
    while waiting:
        name = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield name, safe_line(found.version, 80)
        for text in found.requires or ():
            needed = _name(text)
            if needed and needed not in seen:
                seen.add(needed)
                waiting.append(needed)


def _name(text: str) -> str:
    """The distribution that a requirement asks for here, "" if it asks for none: an extra, or another platform's."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return ""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    return _normal(requirement.name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _accelerator() -> str:
    return "gpu" if os.path.exists("/dev/nvidia0") else "cpu"  # noqa: PTH110 (a path that is no file of ours)
