"""Which gateway an object belongs to, and where this one reads it from.

`cluster/peers.py` ranks the gateways for each object. The first is its owner: its cache holds the object, and it does
the writes and the transforms. A request that another gateway passed on is answered where it arrives, whatever the rank,
so gateways that disagree never send a request in circles.

**New owners.** A gateway that joins, or comes back, takes objects over from the gateway that is next in rank now. For a
while it looks there before it fetches anything from the store, so an object is fetched once also while owners change
(`cache/peer.py`).

**Hot objects.** The owner says how many gateways should hold an object (`cluster/popularity.py`). Those keep a copy of
it, read from the owner, and the others spread their requests over them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlencode

from aiohttp import hdrs

from shardgate.wire import paths
from shardgate_gateway.cache.peer import InheritedSource, PeerBucket, PeerSource

if TYPE_CHECKING:
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.cluster.calls import PeerCalls
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.objects.buckets import Bucket

INHERITING_SECONDS = 3600.0
"""How long a new owner looks at the one before: by then it has what most readers want."""


@dataclass(frozen=True, slots=True)
class Here:
    """This gateway answers.

    Attributes:
        source: Where it reads the object.
        copies: How many gateways should hold the object: worth saying to the gateway that asks, if it is more than one.
    """

    source: Source
    copies: int = 1


@dataclass(frozen=True, slots=True)
class There:
    """Another gateway answers: one of the first `copies` of these; this one only if none of those before it can."""

    name: str
    ranked: tuple[Member, ...]
    copies: int


Place: TypeAlias = Here | There


class Ownership:
    """Decides, in a gateway that has others beside it or has none.

    Args:
        calls: To the others; None where there are none.
    """

    def __init__(self, calls: PeerCalls | None) -> None:
        self.calls = calls

    def source(self, bucket: Bucket, key: str) -> Source:
        """Where work of this gateway reads an object: as its owner, or from its owner."""
        if self.calls is None:
            return bucket.source(key)
        peers = self.calls.peers
        owner = peers.ranked(bucket.source(key).entry_name)[0]
        return self._owned(bucket, key) if owner == peers.me else self._copy(owner, bucket, key)

    def _owned(self, bucket: Bucket, key: str) -> Source:
        """An object of this gateway's own: from the store, or from the gateway that had it before."""
        assert self.calls is not None
        source, peers = bucket.source(key), self.calls.peers
        ranked = peers.ranked(source.entry_name)
        if len(ranked) == 1 or time.monotonic() > peers.grew_at + INHERITING_SECONDS:
            return source
        return InheritedSource(source, self._bucket(ranked[1], bucket, only_cached=True), key)

    def place(self, bucket: Bucket, key: str, *, copied: bool) -> Place:
        """Who answers a client that reads an object; `copied`: something of which other gateways keep copies."""
        if self.calls is None:
            return Here(bucket.source(key))
        peers, name = self.calls.peers, bucket.source(key).entry_name
        ranked = peers.ranked(name)
        copies = min(peers.popularity.copies(name), len(ranked)) if copied else 1
        if peers.me == ranked[0]:
            return Here(self._owned(bucket, key))
        if peers.me in ranked[:copies]:
            return Here(self._copy(ranked[0], bucket, key))
        return There(name, ranked, copies)

    def place_for_peer(self, bucket: Bucket, key: str, *, copied: bool, is_hot: bool) -> Here:
        """As `place`, for a gateway that passed a request on; `is_hot`: that one says that there are copies."""
        assert self.calls is not None
        peers, name = self.calls.peers, bucket.source(key).entry_name
        owner = peers.ranked(name)[0]
        if peers.me == owner:
            return Here(self._owned(bucket, key), peers.popularity.count(name) if copied else 1)
        if copied and is_hot:
            return Here(self._copy(owner, bucket, key))
        return Here(bucket.source(key))

    def before_me(self, bucket: Bucket, key: str) -> list[Member]:
        """The gateways that are to be asked for a write before this one does it."""
        if self.calls is None:
            return []
        ranked = self.calls.peers.ranked(bucket.source(key).entry_name)
        me = self.calls.peers.me
        return list(ranked[: ranked.index(me)] if me in ranked else ranked)

    async def forget_elsewhere(self, bucket: Bucket, key: str) -> None:
        """Have all other gateways drop what they hold of an object."""
        if self.calls is None:
            return
        query = urlencode({"provider": bucket.provider, "bucket": bucket.name, "object": key})
        target = f"{paths.FORGET}?{query}"
        await self.calls.poll_others(hdrs.METH_POST, target, [self.calls.credentials.bearer()])

    def _copy(self, owner: Member, bucket: Bucket, key: str) -> Source:
        return PeerSource(bucket.source(key), self._bucket(owner, bucket, only_cached=False), key)

    def _bucket(self, member: Member, bucket: Bucket, *, only_cached: bool) -> PeerBucket:
        """A bucket as a member has it."""
        assert self.calls is not None
        token = self.calls.credentials.token
        client = self.calls.peers.client
        return PeerBucket(client, member, bucket.provider, bucket.name, token, only_cached=only_cached)
