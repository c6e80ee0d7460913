"""Which keys a bucket can hold: those that mean one object, under one name, in every store.

obstore, file systems and URLs all normalise paths: `a//b`, `/a`, `a/` and `a/../b` would silently become other keys,
so that what is stored under one name is found under another, or authorised under one and opened under the other.
Such keys are refused. Everything else is kept byte for byte: spaces, `%`, `#`, `?`, backslashes, any Unicode.
"""

from __future__ import annotations

import re

from shardgate_gateway.errors import BadRequest

MAX_KEY_BYTES = 1024
"""S3's limit; Azure and GCS have the same."""

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HINT = "a key is made of non-empty parts between slashes, none of them `.` or `..`, without control characters"


def check_key(key: str, *, without: str = "") -> None:
    """Raise BadRequest for a key that some store would change; `without` are characters that this one changes."""
    if any(part in {"", ".", ".."} for part in key.split("/")) or _FORBIDDEN.search(key):
        raise BadRequest(f"{key!r} can't name an object", hint=_HINT)
    if found := set(without).intersection(key):
        raise BadRequest(
            f"{key!r} can't name an object here", hint=f"this store takes no {' '.join(sorted(found))} in keys"
        )
    if len(key.encode()) > MAX_KEY_BYTES:
        raise BadRequest(f"the key {key[:40]!r}... has more than {MAX_KEY_BYTES} bytes", hint="use a shorter key")


def may_begin_keys(prefix: str) -> bool:
    """Whether any key could start so; what stores say of other prefixes differs, up to errors of their own."""
    return _FORBIDDEN.search(prefix) is None and len(prefix.encode()) <= MAX_KEY_BYTES


def is_key(key: str) -> bool:
    try:
        check_key(key)
    except BadRequest:
        return False
    return True
