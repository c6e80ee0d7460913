"""Values that came from outside and are kept: in the database, in JSON answers, in the environment of processes.

All of these take less than msgpack and JSON can bring: no bytes, no NaN, no NUL, no half of a surrogate pair, no depth
that a recursive encoder dies of. So it is said once, at the door, what is plain.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from shardgate.text import safe_line

MAX_DEPTH = 32
MAX_INT = (1 << 63) - 1
_UNSAFE = re.compile("[\0\ud800-\udfff]")


def problem_of(value: Any, limit: int, path: str = "") -> str:
    """Why a value can't be kept, with the place in it; "" if it can.

    Args:
        value: Decoded.
        limit: Bytes that it may have as JSON.
        path: Of the value itself, for the message.
    """
    problem = _problem(value, path, 0)
    if not problem and len(json.dumps(value, ensure_ascii=False).encode()) > limit:
        return f"{path or 'it'} has more than {limit:,} bytes as JSON"
    return problem


def _problem(value: Any, path: str, depth: int) -> str:
    if depth > MAX_DEPTH:
        return f"{_short(path)} is nested deeper than {MAX_DEPTH}"
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or _UNSAFE.search(name):
                return f"{path or 'it'} has the key {safe_line(name, 40)!r}"
            if problem := _problem(inner, f"{path}.{name}" if path else name, depth + 1):
                return problem
        return ""
    if isinstance(value, list | tuple):
        found = (_problem(inner, f"{path}.{index}", depth + 1) for index, inner in enumerate(value))
        return next((problem for problem in found if problem), "")
    return _problem_of_one(value, path)


def _problem_of_one(value: Any, path: str) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return f"{_short(path)} holds a NUL character or half a surrogate pair" if _UNSAFE.search(value) else ""
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= MAX_INT:
        return ""
    return f"{_short(path)} can't be {safe_line(value, 40)!r}"


def _short(path: str) -> str:
    return safe_line(path or "it", 200)
