"""What all fills and readings of one process share."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from shardgate_gateway.cache.disk_health import DiskHealth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Future, ThreadPoolExecutor

    from shardgate_gateway.cache.counters import Counters
    from shardgate_gateway.cache.layout import Layout
    from shardgate_gateway.cache.space import Space
    from shardgate_gateway.settings import CacheSettings, UpstreamSettings

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Node:
    layout: Layout
    space: Space
    settings: CacheSettings
    upstream: UpstreamSettings
    pool: ThreadPoolExecutor
    publishers: ThreadPoolExecutor
    """Threads for work that depends on what a body contains (its member index), so that it holds up no loading."""
    counters: Counters
    disk: DiskHealth = field(init=False)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.disk = DiskHealth(self.layout.fills, self.detach)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks, in a thread."""
        return await ended(self.pool.submit(function, *args, **kwargs))

    async def run_apart(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what indexes a body."""
        return await ended(self.publishers.submit(function, *args, **kwargs))

    def detach(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that belongs to no request; it ends at the latest with the cache."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


async def survive(what: str, work: Callable[[], Awaitable[object]]) -> None:
    """One turn of work in the background. If it fails (a full disk, no descriptor left), the next turn may not."""
    try:
        await work()
    except Exception:
        log.exception("%s the cache failed", what)


async def ended(work: Future[T]) -> T:
    """The result of a call in a thread.

    A thread can't be stopped. So whoever is cancelled meanwhile waits until the call is over: it still uses files and
    locks, which must not go to somebody else before.
    """
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(over.set))
        while not work.done():
            with suppress(asyncio.CancelledError):
                await over.wait()
        raise
