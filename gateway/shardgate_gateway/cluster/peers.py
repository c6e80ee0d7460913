"""The gateways that can be reached now, as this one sees them, and whose an object is.

A member that can't be reached, or breaks off, is left out at once, and asked in the background until it answers again:
so a dead one costs one request a failed connect, not every request, and comes back by itself. While it is out its
objects belong to the next in rank. One that is merely slow stays in, because all its objects would move, and move back.
Gateways may disagree about all this for seconds; then an object has two owners, which costs a second copy and never a
wrong byte.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from shardgate.wire import paths
from shardgate_gateway.cluster.connection import Silent, json_object
from shardgate_gateway.cluster.membership import Member
from shardgate_gateway.cluster.placement import rank
from shardgate_gateway.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from typing import Self

    from shardgate_gateway.cluster.connection import PeerClient
    from shardgate_gateway.cluster.membership import Membership
    from shardgate_gateway.cluster.popularity import Popularity

log = logging.getLogger(__name__)

RANKS = 8
"""How many members are tried for one object, at most; also the most copies of a hot one."""
REMEMBERED = 65536
"""Objects whose ranks are remembered."""
PROBE_SECONDS = 1.0
OK = 200


class Peers:
    """Who is there.

    Args:
        me: This gateway.
        membership: Who is meant to be there; entered already.
        client: To ask whoever did not answer.
        popularity: What is known of hot objects.

    Attributes:
        me: As the others see it, as soon as the membership has it.
        grew_at: When this gateway started, or another one came (monotonic): objects have other owners since.
    """

    def __init__(self, me: Member, membership: Membership, client: PeerClient, popularity: Popularity) -> None:
        self.me = me
        self.client = client
        self.popularity = popularity
        self._membership = membership
        self._suspects: dict[str, asyncio.Task[None]] = {}
        self._live: dict[str, Member] = {}
        self._update()

    async def __aenter__(self) -> Self:
        self._membership.on_change(self._update)
        self._update()
        return self

    async def __aexit__(self, *_: object) -> None:
        probes = list(self._suspects.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        self.client.close()

    @property
    def others(self) -> list[Member]:
        """All that answer, without this one."""
        return [member for name, member in self._live.items() if name != self.me.name]

    @property
    def members(self) -> list[tuple[Member, bool]]:
        """All that are meant to be there, and whether they answer."""
        everybody = {name: Member(name, url) for name, url in self._membership.urls.items()} | {self.me.name: self.me}
        return [(everybody[name], name in self._live) for name in sorted(everybody)]

    def ranked(self, thing: str) -> tuple[Member, ...]:
        """Whose it is, and who stands in, in order."""
        found = self._ranked.get(thing)
        if found is None:
            if len(self._ranked) >= REMEMBERED:
                self._ranked.clear()
            found = tuple(self._live[name] for name in rank(self._live.keys(), thing, RANKS))
            self._ranked[thing] = found
        return found

    def serves(self, thing: str) -> bool:
        """Whether a request for it is answered here."""
        return self.me in self.ranked(thing)[: self.popularity.copies(thing)]

    def suspect(self, member: Member, error: UpstreamUnavailable) -> None:
        """It was not reached, or broke off: leave it out until it answers. Where it was silent it may be busy."""
        if isinstance(error, Silent) or member.name in self._suspects or member.name == self.me.name:
            return
        log.warning("%s", error.message)
        self.client.forget(member)
        self._suspects[member.name] = asyncio.create_task(self._probe(member.name))
        self._update()

    async def _probe(self, name: str) -> None:
        while (url := self._membership.urls.get(name)) is not None:
            await asyncio.sleep(PROBE_SECONDS)
            if await self._is_ready(Member(name, url)):
                log.info("gateway %s is back at %s", name, url)
                break
        del self._suspects[name]
        self._update()

    async def _is_ready(self, member: Member) -> bool:
        try:
            status, body = await self.client.tell(member, "GET", paths.READY, ())
        except UpstreamUnavailable:
            return False
        return status == OK and (json_object(body) or {}).get("member") == member.name

    def _update(self) -> None:
        urls = self._membership.urls
        self.me = Member(self.me.name, urls.get(self.me.name, self.me.url))
        before = self._live
        self._live = {name: Member(name, url) for name, url in urls.items() if name not in self._suspects}
        self._live[self.me.name] = self.me
        if self._live.keys() - before.keys():
            self.grew_at = time.monotonic()
        for member in before.values():
            if self._live.get(member.name) != member:
                self.client.forget(member)
        self._ranked: dict[str, tuple[Member, ...]] = {}
