"""What the handlers work with: the rooms below, put together by `app.py`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cluster.calls import PeerCalls
    from shardgate_gateway.etl.delivery import Delivery
    from shardgate_gateway.etl.environments import Environments
    from shardgate_gateway.etl.kubernetes.demand import DemandBoard
    from shardgate_gateway.etl.registration import Registrar
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.runner import Runner
    from shardgate_gateway.objects.buckets import Buckets
    from shardgate_gateway.objects.service import Objects
    from shardgate_gateway.settings import Settings
    from shardgate_gateway.stores.upload_memory import UploadMemory
    from shardgate_gateway.tokens import Tokens


@dataclass(slots=True)
class Service:
    """The gateway behind its HTTP surface.

    Attributes:
        name: Of this gateway among the others.
        demand: What the readers of all its processes want.
        uploads: Memory that they may take.
        running: Requests being answered.
        connections: Open connections.
        max_connections: More than that are answered 503.
        draining: No new connections; every answer ends its own.
        idle: Set whenever nothing is running.
    """

    settings: Settings
    tokens: Tokens
    buckets: Buckets
    cache: Cache
    objects: Objects
    registry: Registry
    registrar: Registrar
    environments: Environments
    runner: Runner
    delivery: Delivery
    name: str
    demand: DemandBoard
    uploads: UploadMemory
    max_connections: int
    running: int = 0
    connections: int = 0
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def calls(self) -> PeerCalls | None:
        """To the other gateways, where there are any."""
        return self.objects.ownership.calls
