"""How containers are reached."""

from __future__ import annotations

import socket

from aiohttp import web
from aiohttp.test_utils import TestServer

from shardgate_gateway.etl.container.client import KEEPALIVE, open_session


async def test_a_machine_that_dies_while_it_computes_is_noticed() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(1 << 20))

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, open_session() as session, session.get(server.make_url("/")) as response:
        assert response.connection is not None
        assert response.connection.transport is not None
        sock = response.connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert {option: sock.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE} == KEEPALIVE
