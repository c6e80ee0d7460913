"""Mounts environments."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from shardgate.wire import paths
from shardgate_gateway.etl.environments import Environments
from shardgate_gateway.feature import Mount
from shardgate_gateway.features.environments import endpoints
from shardgate_gateway.http.route import BY_HANDLER, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.http.route import Route
    from shardgate_gateway.kernel import Kernel


class EnvironmentStore:
    name = "environments"

    @asynccontextmanager
    async def open(self, kernel: Kernel) -> AsyncIterator[Mount]:
        yield Mount(routes(kernel, Environments(kernel.payloads)))


def routes(kernel: Kernel, environments: Environments) -> tuple[Route, ...]:
    """Of this gateway."""
    return (
        route(
            "environment",
            f"{paths.ENVIRONMENTS}/([0-9a-f]{{64}})",
            needs=BY_HANDLER,
            GET=partial(endpoints.get, environments),
            HEAD=partial(endpoints.head_of, environments),
            PUT=partial(endpoints.put, kernel, environments),
        ),
    )
