"""Mounts what one can ask and tell the cache."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

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
        route("cache", "/v1/cache/?", needs=BY_HANDLER, GET=partial(endpoints.stat, kernel)),
        route("prefetch", "/v1/cache/prefetch", needs=BY_HANDLER, POST=partial(endpoints.prefetch, kernel)),
        route("evict", "/v1/cache/evict", needs=BY_HANDLER, POST=partial(endpoints.evict, kernel)),
    )
