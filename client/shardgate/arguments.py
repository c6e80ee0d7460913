"""Whether and how a function gets the `args` of a request: one rule for who captures it and who calls it."""

from __future__ import annotations

import inspect
from typing import Any, Literal

ArgsStyle = Literal["none", "keyword", "positional"]


def args_style(function: Any) -> ArgsStyle:
    """By a parameter `args`, or by a second one without default, or not at all.

    A class is asked for what its instances take.
    """
    try:
        if isinstance(function, type):
            parameters = list(inspect.signature(function.__call__).parameters.values())[1:]
        else:
            parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin does not tell
        return "none"
    if any(p.name == "args" and p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY} for p in parameters[1:]):
        return "keyword"
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = [p for p in positional if p.default is p.empty]
    return "positional" if len(required) == 2 else "none"  # noqa: PLR2004 - the sample and its args
