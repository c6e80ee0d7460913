"""Who says where the body of an HTTP answer ends.

A body ends after its Content-Length, or with the last chunk of `Transfer-Encoding: chunked`. Where an answer has
neither, its body ends where the connection closes (RFC 9112, section 6.3), and then a body that was cut looks like a
whole one. Libraries take such a body without a word. So every HTTP reader of ours asks here, before it hands out a
byte, and refuses an answer whose end nobody tells.

Answers that say two things are refused too: readers on the way may each believe another one.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol

from shardgate.text import safe_line

if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTH = re.compile(r"[0-9]{1,18}")
"""Below 10**18: fits 64 bits, and Python refuses to convert thousands of digits."""
_SHOWN = 60
BODYLESS = frozenset((HTTPStatus.CONTINUE, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))
"""Answers with these statuses have no body, and so have all answers to HEAD."""
FRAMING_HINT = "the server has to send a Content-Length, or chunks (HTTP/1.1); in nginx: proxy_http_version 1.1"


class _MultiDict(Protocol):
    def getall(self, key: str, default: Sequence[str], /) -> Sequence[str]: ...


class Framing(NamedTuple):
    """Where a body ends.

    Attributes:
        length: Bytes of the body; None where it is chunked, and where nobody tells.
        problem: Why its end can't be known; empty where it can.
    """

    length: int | None
    problem: str = ""


def framing(lengths: Sequence[str], codings: Sequence[str]) -> Framing:
    """Judge an answer that has a body.

    Args:
        lengths: All values of its Content-Length headers.
        codings: All values of its Transfer-Encoding headers.
    """
    if not codings:
        return _by_length(lengths)
    said = ", ".join(codings)
    if said.strip(" \t").lower() != "chunked":
        return Framing(None, f"its Transfer-Encoding is {safe_line(said, _SHOWN)!r}, and only a close can end that")
    if lengths:
        return Framing(None, "it has both a Content-Length and a Transfer-Encoding")
    return Framing(None)


def framing_of(headers: _MultiDict) -> Framing:
    """`framing` of headers that are a multidict, as aiohttp has them."""
    return framing(headers.getall("Content-Length", ()), headers.getall("Transfer-Encoding", ()))


def _by_length(lengths: Sequence[str]) -> Framing:
    if not lengths:
        return Framing(None, "it has neither a Content-Length nor chunks, so a body that was cut would look whole")
    said = ", ".join(lengths)
    text = said.strip(" \t")
    if not _LENGTH.fullmatch(text):
        return Framing(None, f"its Content-Length is {safe_line(said, _SHOWN)!r}")
    return Framing(int(text))
