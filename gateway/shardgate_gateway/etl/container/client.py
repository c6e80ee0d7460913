"""Speaks to containers, for any runner that knows where they are."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs

from shardgate_gateway.etl.container.connection import ContainerConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardgate import wire
    from shardgate_gateway.cache.reader import FileSpan
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.settings import EtlSettings

CONNECT_SECONDS = 1.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3}
"""A machine that dies while it computes is noticed after four seconds. (`TCP_USER_TIMEOUT` would find one that dies
while it reads, too, but also ends a program that leaves its input unread for as long.)"""
BUFFER_BYTES = 256 << 10
"""Of an answer, per connection; twice as much before the container is stopped."""


class ContainerClient:
    """One per runner; made when it is first needed, since a session belongs to a running loop.

    Args:
        settings: `etl.progress_timeout` is the longest time without a byte.
    """

    def __init__(self, settings: EtlSettings) -> None:
        self._timeout = settings.progress_timeout
        self._session: aiohttp.ClientSession | None = None

    def connection(
        self,
        address: str,
        record: TransformRecord,
        job: wire.Job,
        input: FileSpan | None,  # noqa: A002 (as in Runner.connect)
        done: Callable[[bool], None],
        environment: dict[str, str],
    ) -> ContainerConnection:
        """A connection for one job, which begins when it is first asked for something; see there."""
        container = record.manifest.container
        assert container is not None
        if self._session is None:
            self._session = open_session()
        return ContainerConnection(self._session, address, container, job, input, self._timeout, done, environment)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


def open_session() -> aiohttp.ClientSession:
    """With a connection per request: reusing one saves nothing where it carries a shard, and costs doubts.

    The container is not told so. A server that refuses an object before it has read it would close at once where it
    knows that nothing more will come, and what is on its way to it then makes TCP reset the connection, its words too.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_kept_alive),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=None),
        headers={
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.CONNECTION: "keep-alive",
            hdrs.CONTENT_TYPE: "application/octet-stream",
        },
        auto_decompress=False,
        read_bufsize=BUFFER_BYTES,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _kept_alive(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
