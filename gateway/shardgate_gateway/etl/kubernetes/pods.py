"""Opens everything that a gateway needs to run transforms as pods. Only a gateway that does so imports this."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shardgate_gateway.etl.environments import Environments
from shardgate_gateway.etl.kubernetes.demand import DemandBoard
from shardgate_gateway.etl.kubernetes.demand_collector import DemandCollector
from shardgate_gateway.etl.kubernetes.runner import open_runner
from shardgate_gateway.metrics import WORKER_NUMBER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shardgate_gateway.auth.tokens import Tokens
    from shardgate_gateway.cluster.credentials import Credentials
    from shardgate_gateway.cluster.peers import Peers
    from shardgate_gateway.etl.kubernetes.runner import KubernetesRunner
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.settings import Settings
    from shardgate_gateway.stores.base import Store


def demand_board(state: Path) -> DemandBoard:
    """The board of this gateway process, in the folder that all processes of the gateway share."""
    return DemandBoard(state / "demand", os.environ.get(WORKER_NUMBER, "0"))


@asynccontextmanager
async def open_pods(
    settings: Settings,
    tokens: Tokens,
    payloads: Store,
    registry: Registry,
    peers: Peers | None,
    credentials: Credentials,
) -> AsyncIterator[KubernetesRunner]:
    """A runner whose transforms run as pods, and which tells the other processes and gateways what its readers want.

    Raises:
        BadRequest: There is no way to the API server.
    """
    board = demand_board(settings.state.dir)
    demands = DemandCollector(board, peers, credentials)
    async with open_runner(settings, tokens, Environments(payloads), registry.list, demands) as runner:
        publishing = asyncio.create_task(board.keep_publishing(runner.demands))
        try:
            yield runner
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
