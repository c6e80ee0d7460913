"""The kernel: what HTTP endpoints and features work with. `app.py` puts it together.

It holds the services of the rooms below and nothing else: a feature that needs more asks for a room of its own, and
keeps its own state in what its `open` returns (`feature.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardgate_gateway.auth.tokens import Tokens
    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cluster.calls import PeerCalls
    from shardgate_gateway.etl.delivery import Delivery
    from shardgate_gateway.etl.registration import Registrar
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.runner import Runner
    from shardgate_gateway.jobs.supervisor import JobSupervisor
    from shardgate_gateway.objects.buckets import Buckets
    from shardgate_gateway.objects.service import Objects
    from shardgate_gateway.settings import Settings
    from shardgate_gateway.state.database import Database
    from shardgate_gateway.stores.base import Store
    from shardgate_gateway.stores.upload_memory import UploadMemory


@dataclass(slots=True)
class Traffic:
    """The connections and requests of this process.

    Attributes:
        max_connections: More connections than that are answered 503.
        connections: Open connections.
        running: Requests that are being answered.
        draining: No new connections are taken; every answer ends its own.
        idle: Set whenever nothing is running.
    """

    max_connections: int
    connections: int = 0
    running: int = 0
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_full(self) -> bool:
        return self.connections > self.max_connections

    def begin(self) -> None:
        """A request arrived."""
        self.running += 1
        self.idle.clear()

    def end(self) -> None:
        """A request was answered."""
        self.running -= 1
        if not self.running:
            self.idle.set()


@dataclass(frozen=True, slots=True)
class Kernel:
    """The services of one gateway process.

    Attributes:
        settings: All of them.
        name: Of this gateway among the others.
        tokens: Checks and signs tokens.
        buckets: By name.
        cache: Of this node.
        objects: Reads and writes objects of all buckets.
        registry: Which transforms there are.
        registrar: Registers new ones.
        runner: Runs them.
        delivery: Delivers their results.
        database: Rows that outlive the process, shared by all gateways.
        payloads: A store for what is too large for rows.
        jobs: Runs what is to be done in the background.
        uploads: The memory that uploads may take.
        traffic: What this process is doing.
    """

    settings: Settings
    name: str
    tokens: Tokens
    buckets: Buckets
    cache: Cache
    objects: Objects
    registry: Registry
    registrar: Registrar
    runner: Runner
    delivery: Delivery
    database: Database
    payloads: Store
    jobs: JobSupervisor
    uploads: UploadMemory
    traffic: Traffic

    @property
    def calls(self) -> PeerCalls | None:
        """To the other gateways, where there are any."""
        return self.objects.ownership.calls
