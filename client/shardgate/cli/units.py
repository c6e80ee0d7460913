"""Numbers as people read them: 48.0 MiB, 7.2 s, a local time. `--json` has them as they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

STEP = 1024
MINUTE, HOUR, DAY = 60, 3600, 86400
TIMES = frozenset({"since", "last_modified"})


def size_text(size: float | None) -> str:
    if size is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < STEP or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= STEP
    raise AssertionError


def duration_text(seconds: float) -> str:
    """Two units at most: 0.25 s, 7.2 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def time_text(time: datetime | str | None, *, seconds: bool = False) -> str:
    """In this machine's time zone; text is ISO 8601."""
    if not time:
        return ""
    try:
        time = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        return str(time)
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if seconds else f"{time.astimezone():%Y-%m-%d %H:%M}"


def value_text(name: str, value: Any) -> str:
    """A field of a record; its name, like `capacity_bytes`, says what a number is."""
    last = name.rpartition(".")[2]
    if isinstance(value, int | float) and not isinstance(value, bool):
        if last.endswith("bytes") or last.startswith("bytes_"):
            return size_text(value)
        if last.endswith(("seconds", "_timeout")):
            return duration_text(value)
    if isinstance(value, datetime) or (isinstance(value, str) and (last.endswith("_at") or last in TIMES)):
        return time_text(value, seconds=True)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
