"""The folder in which a runtime tells the world how it is: a lock for its life, and its status as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any, Literal

from shardgate.text import safe_text
from shardgate_runtime.failures import StartupError

if TYPE_CHECKING:
    from pathlib import Path

RuntimeState = Literal["starting", "ready", "failed", "stopped"]

MAX_MESSAGE = 32 << 10
"""Characters of a message: room for our words and a traceback."""


class RunDir:
    """Owned by one runtime at a time.

    Raises:
        StartupError: Another runtime holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.scoreboard = folder / "scoreboard"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock_fd)
            raise StartupError(f"another runtime works in {folder}") from None
        os.close(os.open(self.scoreboard, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # nobody else's to read

    def write_status(self, state: RuntimeState, message: str = "", hint: str = "", **more: Any) -> None:
        """Replace status.json in one step, so that a reader sees the old one or the new one."""
        said = {"message": safe_text(message, MAX_MESSAGE), "hint": safe_text(hint, MAX_MESSAGE)}
        status = {"state": state, "pid": os.getpid(), **said, "since": time.time(), **more}
        new = self._folder / "status.json.new"
        new.write_text(json.dumps(status), encoding="utf-8")
        new.chmod(0o600)
        new.replace(self._folder / "status.json")
