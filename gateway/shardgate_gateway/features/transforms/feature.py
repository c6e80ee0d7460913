"""Mounts transforms."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from shardgate.wire import paths
from shardgate_gateway.auth.scopes import REGISTER, USE
from shardgate_gateway.feature import Mount
from shardgate_gateway.features.transforms import endpoints
from shardgate_gateway.http.route import BY_HANDLER, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.http.route import Route
    from shardgate_gateway.kernel import Kernel


class Transforms:
    name = "transforms"

    @asynccontextmanager
    async def open(self, kernel: Kernel) -> AsyncIterator[Mount]:
        yield Mount(routes(kernel))


def routes(kernel: Kernel) -> tuple[Route, ...]:
    """Of this gateway."""
    one = f"{paths.TRANSFORMS}/([^/]+)"
    return (
        route(
            "transforms",
            f"{paths.TRANSFORMS}/?",
            needs=USE,
            changes=REGISTER,
            GET=partial(endpoints.show_all, kernel),
            POST=partial(endpoints.register, kernel),
        ),
        route(
            "transform",
            one,
            needs=USE,
            changes=REGISTER,
            GET=partial(endpoints.show, kernel),
            DELETE=partial(endpoints.delete, kernel),
        ),
        route("start", f"{one}/start", needs=USE, POST=partial(endpoints.start, kernel)),
        route("stop", f"{one}/stop", needs=USE, POST=partial(endpoints.stop, kernel)),
        route("package", f"{one}/package", needs=BY_HANDLER, GET=partial(endpoints.package, kernel)),
        route("logs", f"{one}/logs", needs=USE, GET=partial(endpoints.logs, kernel)),
        route("stats", f"{one}/stats", needs=USE, GET=partial(endpoints.stats, kernel)),
    )
