"""How the gateway's log looks: one record is one line, whatever text users, shards and servers put into it.

A name, a header or an exception of user code may hold line breaks that would forge a record, and escapes that a
terminal obeys. They are escaped here, at the root, so that no call has to think of it. A traceback keeps its lines;
each is indented, and only a record begins with a date.
"""

from __future__ import annotations

import logging

from shardgate.text import safe_line

FORMAT = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
MAX_RECORD = 16 << 10
MAX_TRACEBACK = 64 << 10
"""Characters of a record and of a traceback that are kept; of a traceback its end, where the cause stands."""
INDENT = "    "


class LineFormatter(logging.Formatter):
    """A formatter whose records can't be taken for others."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        record.message = safe_line(_Message(record), MAX_RECORD)
        record.asctime = self.formatTime(record)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


class _Message:
    """A record's message; arguments whose text can't be made are `safe_line`'s to deal with."""

    def __init__(self, record: logging.LogRecord) -> None:
        self._record = record

    def __str__(self) -> str:
        return self._record.getMessage()


def _indented(text: str) -> list[str]:
    return [INDENT + safe_line(line, MAX_RECORD) for line in text[-MAX_TRACEBACK:].split("\n")]


def set_up_logging() -> None:
    """Send all records to stderr, in this format."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
