"""What makes a package large, for a warning that names it."""

from __future__ import annotations

import functools
import pickle
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

from shardgate.notices import CaptureWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGE = 50_000_000
"""Bytes of a package: each registration sends them, and each worker loads them."""
NAMED = 3


def warn_if_large(name: str, size: int, target: object, functions: Iterable[types.FunctionType]) -> None:
    """Warn of a package over LARGE, and name the largest values that it holds."""
    if size <= LARGE:
        return
    found: dict[int, tuple[int, str]] = {}
    for label, value in _values(target, functions):
        found.setdefault(id(value), (_size(value), label))
    largest = sorted(found.values(), reverse=True)[:NAMED]
    shown = ", ".join(f"`{label}` ({bytes_ / 1e6:.0f} MB)" for bytes_, label in largest if bytes_ > LARGE / 100)
    warnings.warn(
        f"the package of {name} has {size / 1e6:.0f} MB, which are sent now and loaded by each worker"
        + (f"; the largest things in it are {shown}" if shown else "")
        + ". What a worker can read from a file or a bucket is better loaded in setup() of a class",
        CaptureWarning,
        stacklevel=5,
    )


def _values(target: object, functions: Iterable[types.FunctionType]) -> Iterator[tuple[str, object]]:
    """What functions use of their globals and closures, and what an object holds, by name."""
    while isinstance(target, functools.partial):
        yield from ((f"argument {number}", value) for number, value in enumerate(target.args))
        yield from target.keywords.items()
        target = target.func
    if not isinstance(target, types.FunctionType):
        yield from getattr(target, "__dict__", {}).items()
    for function in functions:
        for code in _codes(function.__code__):
            yield from ((name, function.__globals__[name]) for name in code.co_names if name in function.__globals__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from (function.__kwdefaults__ or {}).items()
        yield from ((f"a default of {function.__name__}", value) for value in function.__defaults__ or ())


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _size(value: Any) -> int:
    if isinstance(value, types.ModuleType | types.FunctionType | type):
        return 0
    own = getattr(value, "nbytes", None)
    if isinstance(own, int):
        return own
    try:
        return len(pickle.dumps(value, 5))
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return sys.getsizeof(value, 0)
