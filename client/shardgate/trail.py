"""The path from a function to an object inside it, in words: `wd_transform` → global `lock`."""

from __future__ import annotations

import itertools
import types

from shardgate.errors import CaptureError

HINT = "make it inside the function, or in `setup()` of a class, so that each worker makes its own"


class CannotBeSentError(Exception):
    """An object that must not leave this process.

    Args:
        reason: Why.
        hint: What to do instead.
    """

    def __init__(self, reason: str, hint: str = HINT) -> None:
        super().__init__(reason)
        self.hint = hint


def unpicklable(trail: list[object], error: Exception) -> CaptureError:
    """Say which object, reached how, can't be sent."""
    culprit = trail[-1]
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    hint = error.hint if isinstance(error, CannotBeSentError) else HINT
    return CaptureError(f"{describe(trail)} of type {kind} can't be sent: {error}", hint=hint)


def describe(trail: list[object]) -> str:
    """Read the path from the function to its last object: "`wd_transform` → global `lock`"."""
    steps = [f"`{getattr(trail[0], '__qualname__', type(trail[0]).__qualname__)}`"] if trail else []
    owner = trail[0] if trail else None
    for parent, child in itertools.pairwise(trail):
        if isinstance(parent, (types.FunctionType, type)) or hasattr(parent, "__dict__"):
            owner = parent
        if step := _step(owner, parent, child):
            steps.append(step)
    return " → ".join(steps)


def _step(owner: object, parent: object, child: object) -> str | None:
    """How `child` is reached from a dict, or from the closure of a function; other containers say nothing."""
    if isinstance(owner, types.FunctionType):
        for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
            if child is cell:
                return f"closure variable `{name}`"
        for name, value in zip(_defaulted(owner), owner.__defaults__ or (), strict=True):
            if child is value and parent is owner.__defaults__:
                return f"default of `{name}`"
    if not isinstance(parent, dict):
        return None
    name = next((str(k) for k, v in parent.items() if v is child), "")
    if not name or name in {"__globals__", "__closure__", "__defaults__", "__kwdefaults__", "__dict__"}:
        return None
    if isinstance(owner, types.FunctionType) and owner.__globals__.get(name, parent) is child:
        return f"global `{name}`"
    return f"attribute `{name}`" if getattr(owner, name, parent) is child else f"item `{name}`"


def _defaulted(function: types.FunctionType) -> tuple[str, ...]:
    code = function.__code__
    count = len(function.__defaults__ or ())
    return code.co_varnames[code.co_argcount - count : code.co_argcount]
