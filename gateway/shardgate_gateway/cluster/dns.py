"""Members by name resolution: the addresses of a headless Service, or of any name that has one per gateway.

An address is not a name that outlives a restart, so every address is asked who it is (`/readyz` says so) at each look.
A new one that does not answer is not a member yet. A member that says nothing may be busy, and stays one. It goes at
once when it says that it shuts down, or has left the name, and after `MISSES` looks at which it could not be reached or
gave another answer: one lost connection would move all its objects, and move them back. Whoever talks to it meanwhile
finds out for themselves that it is away (`peers.py`). An address may turn out to be our own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shardgate.wire import paths
from shardgate_gateway.cluster.connection import Silent, json_object
from shardgate_gateway.cluster.membership import Member, Membership, url_of
from shardgate_gateway.errors import Draining, UpstreamUnavailable

if TYPE_CHECKING:
    from typing import Self

    from shardgate_gateway.cluster.connection import PeerClient

log = logging.getLogger(__name__)
OK = 200
MISSES = 3
"""Looks in a row at which a member did not say that it is ready, after which it is a member no more."""


class DnsMembership(Membership):
    """Everybody behind a name.

    Args:
        url: `http://name:port`.
        client: To ask addresses who they are.
        refresh_seconds: Between two looks.
    """

    def __init__(self, url: str, client: PeerClient, refresh_seconds: float) -> None:
        super().__init__()
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._client = client
        self._refresh_seconds = refresh_seconds
        self._names: dict[str, str] = {}
        self._misses: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._look()
        self._task = asyncio.create_task(self._run(), name="members by DNS")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self._look()

    async def _look(self) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            log.warning("can't resolve %s, the members stay as they are: %s", self._host, error)
            return
        urls = [url_of(str(address[4][0]), self._port) for address in found]
        names = await asyncio.gather(*(self._name(url) for url in urls))
        self._names = {url: name for url, name in zip(urls, names, strict=True) if name}
        self._misses = {url: count for url, count in self._misses.items() if url in self._names}
        self._set({name: url for url, name in sorted(self._names.items(), reverse=True)})

    async def _name(self, url: str) -> str:
        """Of the gateway at this URL, empty if it is no member; what is known of it holds for a few looks."""
        try:
            status, body = await self._client.tell(Member(url, url), "GET", paths.READY, ())
        except Silent:
            return self._names.get(url, "")
        except UpstreamUnavailable:
            return self._missed(url)
        said = json_object(body) or {}
        if said.get("code") == Draining.code:
            return ""
        name = said.get("member")
        if status != OK or not isinstance(name, str):
            return self._missed(url)
        self._misses.pop(url, None)
        return name

    def _missed(self, url: str) -> str:
        self._misses[url] = self._misses.get(url, 0) + 1
        return self._names.get(url, "") if self._misses[url] < MISSES else ""
