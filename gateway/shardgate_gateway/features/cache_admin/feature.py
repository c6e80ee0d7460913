"""Mounts what one can ask and tell the cache."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from shardgate.wire import paths
from shardgate_gateway.feature import Mount
from shardgate_gateway.features.cache_admin import endpoints
from shardgate_gateway.http.route import BY_HANDLER, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.http.route import Route
    from shardgate_gateway.kernel import Kernel


class CacheAdmin:
    name = "cache_admin"

    @asynccontextmanager
    async def open(self, kernel: Kernel) -> AsyncIterator[Mount]:
        yield Mount(routes(kernel))


def routes(kernel: Kernel) -> tuple[Route, ...]:
    """Of this gateway."""
    return (
        route("cache", f"{paths.CACHE}/?", needs=BY_HANDLER, GET=partial(endpoints.stat, kernel)),
        route("prefetch", f"{paths.CACHE}/prefetch", needs=BY_HANDLER, POST=partial(endpoints.prefetch, kernel)),
        route("evict", f"{paths.CACHE}/evict", needs=BY_HANDLER, POST=partial(endpoints.evict, kernel)),
    )
