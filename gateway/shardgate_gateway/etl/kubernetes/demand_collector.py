"""What the readers of all gateways want: this one's processes by their files, the others by asking them."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from shardgate.wire import paths
from shardgate_gateway.errors import UpstreamUnavailable
from shardgate_gateway.etl.kubernetes.demand import from_json, total

if TYPE_CHECKING:
    from shardgate_gateway.cluster.credentials import Credentials
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.cluster.peers import Peers
    from shardgate_gateway.etl.kubernetes.demand import DemandBoard, Demands


class DemandCollector:
    """Asks all gateways.

    Args:
        board: Of this gateway.
        peers: The others, if there are any.
        credentials: Shown to them.
    """

    def __init__(self, board: DemandBoard, peers: Peers | None, credentials: Credentials) -> None:
        self._board = board
        self._peers = peers
        self._credentials = credentials

    async def __call__(self) -> tuple[Demands, bool]:
        """The sum, and whether every gateway told its part."""
        mine = await asyncio.to_thread(self._board.read)
        if self._peers is None:
            return mine, True
        told = await asyncio.gather(*(self._ask(self._peers, member) for member in self._peers.others))
        complete = all(live for _, live in self._peers.members) and None not in told
        return total([mine, *(part for part in told if part is not None)]), complete

    async def _ask(self, peers: Peers, member: Member) -> Demands | None:
        try:
            status, body = await peers.client.tell(member, "GET", paths.DEMAND, [self._credentials.bearer()])
            return from_json(json.loads(body)) if status == HTTPStatus.OK else None
        except (UpstreamUnavailable, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
            return None
