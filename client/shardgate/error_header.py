"""An error in a header: answers to HEAD have no body that could tell it.

The value is a query string, `code=not_found&message=...&hint=...`, in which printable ASCII stands as it is, so that
`curl -I` shows a readable line. It is cut to what every proxy lets through.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from shardgate.text import safe_text

MESSAGE_CHARACTERS = 1500
"""Of the message, in its encoded form."""
HINT_CHARACTERS = 500
PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "%&=")


def pack_error(code: str, message: str, hint: str) -> str:
    """The header's value."""
    parts = {
        "code": _quoted(code, 100),
        "message": _quoted(message, MESSAGE_CHARACTERS),
        "hint": _quoted(hint, HINT_CHARACTERS),
    }
    return "&".join(f"{name}={text}" for name, text in parts.items() if text)


def unpack_error(value: str) -> dict[str, str]:
    """What `pack_error` packed, as far as it came."""
    pairs = (part.partition("=") for part in value.split("&"))
    return {name: unquote(text) for name, _, text in pairs if name in {"code", "message", "hint"}}


def _quoted(text: str, limit: int) -> str:
    """Percent-encoded, and cut between two characters."""
    quoted = ""
    for character in safe_text(text, limit).strip():
        one = quote(character, safe=PLAIN)
        if len(quoted) + len(one) > limit:
            break
        quoted += one
    return quoted
