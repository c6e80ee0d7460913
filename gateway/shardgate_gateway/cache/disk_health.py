"""Whether the cache's disk can be written to: a full or failing one costs no reader anything, so nobody would notice.

Each process finds out by itself: a body that can't be written makes it "not writable". From then on it tries every few
seconds to write a file as large as that body, up to a limit, until that works again. Otherwise it tries nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tempfile
import time
from typing import TYPE_CHECKING

from shardgate_gateway import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

log = logging.getLogger(__name__)

TRY_SECONDS = 5.0
TRY_BYTES = 1 << 20
MAX_TRY_BYTES = 64 << 20
"""The least and the most that a try writes: with a little room left, a large body would fail again."""
NOT_THE_DISK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class DiskHealth:
    """One per process.

    Args:
        folder: Where bodies are written.
        detach: Starts a task that ends with the cache.

    Attributes:
        problem: Why the disk can't be written to; empty while it can.
    """

    def __init__(self, folder: str, detach: Callable[[Coroutine[Any, Any, Any]], object]) -> None:
        self._folder = folder
        self._detach = detach
        self.problem = ""
        metrics.CACHE_WRITABLE.set(1)

    def failed(self, error: OSError, size: int | None) -> None:
        """A body of this size could not be written."""
        if error.errno is None or error.errno in NOT_THE_DISK:
            return
        metrics.CACHE_DISK_ERRORS.labels(errno.errorcode.get(error.errno, "other")).inc()
        if self.problem:
            return
        self.problem = error.strerror or type(error).__name__
        metrics.CACHE_WRITABLE.set(0)
        log.error("the cache can't write to its disk: %s; readers are served straight from the stores", self.problem)
        self._detach(self._wait_until_writable(min(max(size or 0, TRY_BYTES), MAX_TRY_BYTES)))

    async def _wait_until_writable(self, size: int) -> None:
        began = time.monotonic()
        while self.problem:
            await asyncio.sleep(TRY_SECONDS)
            try:
                await asyncio.to_thread(_try, self._folder, size)
            except OSError as error:
                self.problem = error.strerror or type(error).__name__
            else:
                self.problem = ""
        metrics.CACHE_WRITABLE.set(1)
        log.info("the cache can write to its disk again, after %.0f seconds", time.monotonic() - began)


def _try(folder: str, size: int) -> None:
    """Write a file without a name, that is gone whatever happens. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        os.pwrite(file.fileno(), b"x", size - 1)
        os.fsync(file.fileno())
