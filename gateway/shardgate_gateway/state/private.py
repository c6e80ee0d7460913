"""The state folder is its owner's alone: it holds packages, which are code and what it closes over, secrets, and logs.

What earlier versions made readable to others is closed when a gateway starts. Where files belong to somebody else, as
the root of a Kubernetes volume does, they stay as their owner made them.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from shardgate_gateway.errors import LocalStorageError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
WORK = "work"
"""Name of the working directories of user code, below which nothing is ours."""

log = logging.getLogger(__name__)


def open_state(folder: Path) -> None:
    """Make the folder, and everything in it private.

    Raises:
        LocalStorageError: It can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    except OSError as error:
        raise LocalStorageError(f"state.dir {folder}: {error.strerror}", hint="set it to a writable folder") from error
    _close(folder)
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != WORK]
        for name in (*folders, *files):
            _close(Path(parent, name))


def make_private_file(path: Path) -> None:
    """Make it, empty, where it is not there, so that whoever opens it later does not make it readable to all."""
    with suppress(OSError):  # whoever opens it later says what is wrong
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE))


def _close(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        if stat.S_IMODE(mode) & 0o077 and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & ~0o077)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s is open to others, and that can't be changed: %s", path, error.strerror)
