"""A container's last words: why it ended, as JSON in the file from which Kubernetes takes them.

Kubernetes keeps 4096 bytes. A message that is longer, which is one with a traceback, keeps its beginning, where our own
words stand, and its end, where Python says what happened.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES = 4096
GAP = "\n[...]\n"
HEAD_SHARE = 0.25


def write_reason(path: Path | None, message: str, hint: str) -> None:
    """Leave `{"message", "hint"}` behind; without a path, or where that can't be, the log alone has it."""
    if path is None:
        return
    try:
        path.write_bytes(as_json(message, hint))
    except OSError as error:
        log.warning("%s: %s", path, error)


def as_json(message: str, hint: str) -> bytes:
    """At most MAX_BYTES, and always whole JSON."""
    text = message
    while len(data := json.dumps({"message": text, "hint": hint}).encode()) > MAX_BYTES:
        length = len(text) - len(GAP) - max(16, (len(data) - MAX_BYTES) // 6)
        if length < len(GAP):
            return as_json(message, hint[: len(hint) // 2])
        text = _shortened(message, length)
    return data


def _shortened(text: str, length: int) -> str:
    head = int(length * HEAD_SHARE)
    return text[:head] + GAP + text[len(text) - (length - head) :]
