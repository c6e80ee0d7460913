"""Reading entries in the background, slowly, to find damage before a reader does.

One process of a node scrubs at a time: it holds a lock on the folder of the fills. Its reads leave access times alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate_gateway import metrics
from shardgate_gateway.cache.blocks import BLOCK, block_count
from shardgate_gateway.cache.entry import Entry, EntryInvalid
from shardgate_gateway.cache.hot import EXHAUSTED
from shardgate_gateway.cache.space import scan
from shardgate_gateway.jobs.periodic import Periodic

if TYPE_CHECKING:
    from shardgate_gateway.cache.node import Node

PASS_SECONDS = 3600.0
"""Pause after all entries were read, and before another process is asked whether it still scrubs."""


class Scrubber:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._rate = node.settings.scrub_bytes_per_second

    def jobs(self) -> tuple[Periodic, ...]:
        """Scrubbing, unless it is turned off."""
        return (Periodic("scrub the cache", PASS_SECONDS, self._scrub_alone, spread=0.25),) if self._rate else ()

    async def _scrub_alone(self) -> None:
        """Scrub, unless another process does."""
        lock = os.open(self._node.layout.fills, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            await self.scrub()
        finally:
            os.close(lock)

    async def scrub(self) -> int:
        """Verify every entry once; returns how many were damaged and removed."""
        damaged = 0
        entries = await self._node.run(lambda: list(scan(self._node.layout)))
        random.shuffle(entries)  # a pass that is cut short should not always see the same ones
        for found in entries:
            if not await self._intact(found.path):
                damaged += 1
                self._node.counters.corrupt += 1
                metrics.CACHE_DAMAGED.inc()
                await self._node.run(self._node.space.remove_entry, found.path)
        return damaged

    async def _intact(self, path: str) -> bool:
        try:
            entry = await self._node.run(Entry, path, Path(path).name)
            for number in range(block_count(entry.size)):
                if not await self._node.run(entry.verify, number, number + 1):
                    return False
                await asyncio.sleep(BLOCK / self._rate)
        except FileNotFoundError:
            return True
        except (EntryInvalid, OSError) as error:
            return isinstance(error, OSError) and error.errno in EXHAUSTED
        return True
