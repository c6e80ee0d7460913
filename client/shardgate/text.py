"""Text that users, shards and servers made, before it enters a protocol record, a header, a log or a file.

Such text may be of any length, hold undecodable bytes (lone surrogates, which strict encoders refuse), terminal escapes
and line breaks (which forge log lines), or raise where it is made. Everything of that kind goes through here.
"""

from __future__ import annotations

import re

MAX_TEXT = 4096
"""Characters of a message that are kept: its beginning, where the type and the cause stand."""

_name_of = type.__dict__["__name__"].__get__
"""The name of a type, also where its metaclass answers `__name__` in its own way."""

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def safe_text(value: object, limit: int = MAX_TEXT) -> str:
    r"""`str(value)` in at most `limit` characters that every encoder takes; line breaks and tabs stay.

    Control characters and lone surrogates become escapes such as `\x1b` and `\udce9`. Never raises: a value whose text
    can't be made becomes the name of its type.
    """
    return _safe(value, limit, _UNSAFE)


def safe_line(value: object, limit: int = MAX_TEXT) -> str:
    r"""As `safe_text`, on one line: line breaks and tabs become `\n`, `\r` and `\t`."""
    return _safe(value, limit, _UNSAFE_IN_LINE)


def _safe(value: object, limit: int, unsafe: re.Pattern[str]) -> str:
    text = _text_of(value)[: limit + 1]
    text = unsafe.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def _text_of(value: object) -> str:
    """The text of any value; a subclass of `str` may have methods of its own, so it is copied to a plain one."""
    try:
        return str.__str__(value) if isinstance(value, str) else str.__str__(str(value))
    except BaseException as error:  # noqa: BLE001 (a user's __str__ may raise anything, SystemExit included)
        return f"<a {_name_of(type(value))} whose text can't be made: {_name_of(type(error))}>"
