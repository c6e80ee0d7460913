"""Mounts the question of the leader, where transforms run as pods."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shardgate_gateway.feature import Mount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.kernel import Kernel


class Demand:
    name = "demand"

    @asynccontextmanager
    async def open(self, kernel: Kernel) -> AsyncIterator[Mount]:
        if kernel.settings.etl.runner != "kubernetes":
            yield Mount()
            return
        from shardgate_gateway.etl.kubernetes.pods import demand_board  # noqa: PLC0415 (nothing of it on a laptop)
        from shardgate_gateway.features.demand.endpoints import routes  # noqa: PLC0415

        yield Mount(routes(demand_board(kernel.settings.state.dir)))
