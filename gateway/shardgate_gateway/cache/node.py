"""What all fills and readings of one process share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import ThreadPoolExecutor

    from shardgate_gateway.cache.layout import Layout
    from shardgate_gateway.cache.space import Space
    from shardgate_gateway.settings import CacheSettings, UpstreamSettings

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Counters:
    """What this process did since it started."""

    hits: int = 0
    misses: int = 0
    joined: int = 0
    """Opens that were served from a fetch that was under way."""
    bypasses: int = 0
    """Opens that were served straight from the store."""
    revalidations: int = 0
    fills: int = 0
    """Fetches begun, and taken over from a process that died."""
    takeovers: int = 0
    published: int = 0
    failures: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    corrupt: int = 0
    """Entries that did not match their checksums."""


@dataclass(slots=True)
class Node:
    layout: Layout
    space: Space
    settings: CacheSettings
    upstream: UpstreamSettings
    pool: ThreadPoolExecutor
    counters: Counters
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, lambda: function(*args, **kwargs))

    def detach(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that belongs to no request; it ends at the latest with the cache."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
