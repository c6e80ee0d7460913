"""The version of the program."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def program_version() -> str:
    """As it is installed."""
    try:
        return version("shardgate")
    except PackageNotFoundError:
        return "unknown"
