"""Patterns of object names: `*` and `?` stop at slashes, `**` crosses them, `[a-c]` and `[!a-c]` are one character.

A backslash makes the next character literal. `fnmatch` lets `*` cross slashes and has no escape, and `glob.translate`
needs Python 3.13.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shardgate.errors import InvalidName

MAGIC = re.compile(r"[*?\[{\\]")
"""A character that means something in a pattern or in a brace template."""
TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<deep>\*\*)|(?P<star>\*)|(?P<one>\?)|\[(?P<set>[!^]?\][^\]]*|[!^][^\]]+|[^\]!^][^\]]*)\]|(?P<plain>.)",
    re.DOTALL,
)


class Pattern(NamedTuple):
    """Attributes: prefix: what all names begin with. regex: what they match; None where `prefix` is the one name."""

    prefix: str
    regex: re.Pattern[str] | None


def parse(text: str) -> Pattern:
    """Read a pattern; text without wildcards stands for itself.

    Raises:
        InvalidName: It has a range whose ends are the wrong way round.
    """
    prefix, regex, is_literal = "", "", True
    for token in TOKEN.finditer(text):
        literal = token["escaped"] or token["plain"]
        is_literal = is_literal and literal is not None
        if is_literal:
            prefix += literal
        regex += re.escape(literal) if literal is not None else _regex(token)
    try:
        return Pattern(prefix, None if is_literal else re.compile(regex, re.DOTALL))
    except re.error as error:
        raise InvalidName(f"{text!r} is not a pattern: {error}", hint="a backslash makes a [ literal") from None


def _regex(token: re.Match[str]) -> str:
    if token["deep"]:
        return ".*"
    if token["star"]:
        return "[^/]*"
    if token["one"]:
        return "[^/]"
    inside: str = token["set"]
    negated = inside[:1] in {"!", "^"}
    characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[1:] if negated else inside)
    return f"(?!/)[{'^' if negated else ''}{characters}]"
