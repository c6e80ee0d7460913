"""`Range` (RFC 9110, section 14): which bytes of a body of known size a GET wants.

- One range is answered with 206.
- Several ranges are answered with the whole body and 200, as the RFC allows: no reader of shards asks for them, and
  multipart bodies are a known way to make a server work for nothing.
- A malformed header is ignored, as the RFC demands; a range that starts behind the end is 416.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shardgate_gateway.errors import RangeNotSatisfiable

_SINGLE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.IGNORECASE | re.ASCII)
_MANY_DIGITS = 30


class Span(NamedTuple):
    """Bytes `[start, end)`."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.end - 1}/{size}"


def parse_range(header: str, size: int) -> Span | None:
    """The one range that is asked for, cut to the body; None is the whole body.

    Raises:
        RangeNotSatisfiable: It lies behind the end, or is an empty suffix.
    """
    match = _SINGLE.fullmatch(header)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return _suffix(_clamped(suffix), size, header)
    start = _clamped(first)
    end = _clamped(last) + 1 if last else size
    if end <= start and last:
        return None
    if start >= size:
        raise RangeNotSatisfiable(f"Range {header[:80]!r} starts behind the end", size=size)
    return Span(start, min(end, size))


def _suffix(length: int, size: int, header: str) -> Span | None:
    if length == 0:
        raise RangeNotSatisfiable(f"Range {header[:80]!r} is empty", size=size)
    if size == 0:
        return None
    return Span(max(0, size - length), size)


def _clamped(digits: str) -> int:
    """No object has 10**30 bytes; Python refuses to convert very long numbers at all."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MANY_DIGITS else 10**_MANY_DIGITS
