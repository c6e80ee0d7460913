"""What is wrong with a tar, and what helps."""

from __future__ import annotations

from shardgate.text import safe_line

DAMAGED = "it is not a whole, well-formed tar; `tar -tf` says more; make it or upload it again"
NOT_SPARSE = "make the tar without --sparse (-S), so that files are stored as they are"
MAX_SHOWN = 200
"""Characters of a member's name in a message."""


class BadTar(ValueError):
    """These bytes are no archive whose members can be trusted.

    Attributes:
        message: What is wrong, and at which byte.
        hint: What helps against this cause.
    """

    def __init__(self, message: str, hint: str = DAMAGED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def shown(name: str) -> str:
    """A member's name in a message: short, printable, in quotes."""
    return f"'{safe_line(name, MAX_SHOWN)}'"
