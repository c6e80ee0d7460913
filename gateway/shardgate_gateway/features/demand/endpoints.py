"""What the readers of all processes of this gateway want, told to the gateway that leads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from shardgate.wire import paths
from shardgate_gateway.auth.scopes import PEER
from shardgate_gateway.etl.kubernetes.demand import to_json
from shardgate_gateway.http.route import route

if TYPE_CHECKING:
    from shardgate_gateway.etl.kubernetes.demand import DemandBoard
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.route import Route


def routes(board: DemandBoard) -> tuple[Route, ...]:
    """Of this gateway."""

    async def show(_call: Call) -> web.StreamResponse:
        """What the readers of all processes of this gateway want, by transform."""
        return web.json_response(to_json(await asyncio.to_thread(board.read)))

    return (route("demand", paths.DEMAND, needs=PEER, GET=show),)
