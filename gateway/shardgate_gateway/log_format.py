"""How the gateway's log looks: one record is one line, whatever text users, shards and servers put into it.

A name, a header or an exception of user code may hold line breaks that would forge a record, and escapes that a
terminal obeys. They are escaped here, at the root, so that no call has to think of it. As text, a traceback keeps its
lines; each is indented, and only a record begins with a date. As JSON, a record is one object with everything in it;
what a call gives as `extra={"fields": {...}}` stands in it under its own name, for machines to filter by.

Other libraries are never heard below INFO, whatever `log.level` says: what they say to their own developers may hold
requests with their credentials.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shardgate.text import safe_line, safe_text

if TYPE_CHECKING:
    from shardgate_gateway.settings import LogSettings

FORMAT = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
MAX_RECORD = 16 << 10
MAX_TRACEBACK = 64 << 10
"""Characters of a record and of a traceback that are kept; of a traceback its end, where the cause stands."""
INDENT = "    "
OURS = "shardgate_gateway"


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


class JsonFormatter(logging.Formatter):
    """A formatter whose records are JSON objects, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": safe_line(_Message(record), MAX_RECORD),
        }
        for name, value in getattr(record, "fields", {}).items():
            said[name] = value if isinstance(value, int | float) else safe_line(value, MAX_RECORD)
        if record.exc_info:
            said["traceback"] = safe_text(self.formatException(record.exc_info)[-MAX_TRACEBACK:], MAX_TRACEBACK)
        return json.dumps(said)


class _Message:
    """A record's message; arguments whose text can't be made are `safe_line`'s to deal with."""

    def __init__(self, record: logging.LogRecord) -> None:
        self._record = record

    def __str__(self) -> str:
        return self._record.getMessage()


def _indented(text: str) -> list[str]:
    return [INDENT + safe_line(line, MAX_RECORD) for line in text[-MAX_TRACEBACK:].split("\n")]


def set_up_logging(settings: LogSettings) -> None:
    """Send all records to stderr, as the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else LineFormatter())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.getLogger(OURS).setLevel(level)
