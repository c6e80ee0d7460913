"""An error as three strings, code, message and hint: how other processes and gateways are told of it, and read it."""

from __future__ import annotations

from shardgate.text import safe_text
from shardgate_gateway import errors
from shardgate_gateway.errors import GatewayError

MAX_HINT = 1024
"""Characters; with `MAX_TEXT` of the message, so that a record of a fill stays small (`cache/control.py`)."""


def failure_of(error: Exception) -> tuple[str, str, str]:
    """What a record says of an error. Its text may come from a user's function, so it may be any text."""
    if isinstance(error, GatewayError):
        return error.code, safe_text(error.message), safe_text(error.hint, MAX_HINT)
    return GatewayError.code, safe_text(f"{type(error).__name__}: {safe_text(error)}"), ""


def error_of(failure: tuple[str, str, str]) -> GatewayError:
    """The error that another process met, as far as it can be told."""
    code, message, hint = failure
    kind = _BY_CODE.get(code, GatewayError)
    try:
        return kind(message, hint=hint)
    except TypeError:  # a class that wants to know more than was written down
        return GatewayError(message, hint=hint)


_BY_CODE: dict[str, type[GatewayError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)
}
