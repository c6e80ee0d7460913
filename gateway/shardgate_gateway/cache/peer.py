"""Objects read from another gateway: how a gateway gets its copy of a hot object without fetching it from the store.

The other gateway is a web server that is known to be a good one, so it is read as one, with all the checks of
`stores/http_origin.py`, by the client that passes requests on as well (`cluster/connection.py`). Its etag is that of
the store, and so a copy, a fill that is continued from elsewhere, and a transform's result are the same whichever way
the bytes came. Should that gateway fail, the store itself is read. docs/decisions/0015 measures what this is worth.

A gateway that has just become the owner of an object (it joined, or came back) finds it where it belonged until then:
`InheritedSource`. That is worth a question, and no more: the store says whether it is the current version, and gives
what the other one does not have.

What can go wrong: gateways that wait for each other. The holder of a copy waits for its owner, and the owner for the
next in rank, which may be that very holder, and neither ever gets a byte. So waiting has an order. Copies are asked for
up the ranks, and may wait for whatever the owner waits for. Inherited objects are asked for down the ranks, and never
wait for a fill that is `from_owner`: who wants to inherit is told that there is nothing (`KeptSource`). Two gateways
that see each other agree which of them is higher, whoever else they see. A request names the gateway that it is meant
for, so that an address which is another's by now, or our own, is found out. So every wait ends at a store. Who goes on
with the fill of a dead process keeps to this, too: what others joined as a fill of the store never becomes one of the
owner.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from multidict import CIMultiDictProxy
from yarl import URL

from shardgate import wire
from shardgate.wire import paths
from shardgate_gateway.cache.source import Source, StoreSource
from shardgate_gateway.errors import GatewayError, UpstreamUnavailable
from shardgate_gateway.settings import UpstreamSettings
from shardgate_gateway.stores.http_origin import HttpOrigin
from shardgate_gateway.stores.keys import check_key
from shardgate_gateway.stores.translate import translating

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardgate_gateway.cluster.connection import Answer, PeerClient
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream, Store
    from shardgate_gateway.stores.translate import Body

ONLY_CACHED = "only-if-cached"
"""`Cache-Control` of a request for what another gateway has, or is getting."""


class PeerBucket(HttpOrigin):
    """A bucket as another gateway serves it.

    Args:
        client: Asks that gateway.
        member: It.
        provider: Of the bucket.
        bucket: Its name.
        token: Proves that a gateway asks.
        only_cached: Ask for what that gateway has, or is getting; all else is NotFound.
    """

    def __init__(
        self,
        client: PeerClient,
        member: Member,
        provider: str,
        bucket: str,
        token: Callable[[], str],
        *,
        only_cached: bool,
    ) -> None:
        base = URL(f"{member.url}{paths.OBJECTS}{paths.segment(bucket)}", encoded=True)
        super().__init__(base, UpstreamSettings(), label=f"{provider}://{bucket}")
        self._peers = client
        self._member = member
        self._query = f"provider={provider}"
        self._token = token
        self._more = {wire.MEMBER_HEADER: member.name} | ({"Cache-Control": ONLY_CACHED} if only_cached else {})

    def _url(self, key: str) -> URL:
        return URL(f"{super()._url(key)}?{self._query}", encoded=True)

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {**super()._headers(), **self._more, "Authorization": f"Bearer {token}", wire.FORWARDED_HEADER: token}

    async def _request(
        self, method: str, key: str, headers: dict[str, str] | None = None, body: Body | None = None
    ) -> Any:
        """Ask by our own client. A gateway redirects nobody who does not say what they reach."""
        assert body is None, "a gateway is written to by passing the request on"
        check_key(key)
        lines = {**self._headers(), **(headers or {})}.items()
        return _Response(method, await self._peers.ask(self._member, method, self._url(key).raw_path_qs, lines))

    def _opaque(self, etag: str) -> str:
        """The gateway quotes what can't stand in a header."""
        return unquote(etag)

    async def head(self, key: str) -> ObjectMeta:
        """A gateway answers HEAD as it answers GET."""
        with translating(self._name(key)):
            response = await self._request("HEAD", key)
        try:
            return self._meta(key, self._read(key, response))
        finally:
            response.close()


class _Response:
    """An answer with the face that `HttpOrigin` knows from aiohttp."""

    def __init__(self, method: str, answer: Answer) -> None:
        self.method = method
        self.status = answer.head.status
        self.headers = CIMultiDictProxy(answer.head.headers)
        self.content = self
        self._answer = answer
        self._chunks = answer.chunks()

    async def readany(self) -> bytes:
        return await anext(self._chunks, b"")

    def close(self) -> None:
        """A connection whose body was read to its end is kept."""
        self._answer.close()


class KeptSource(StoreSource):
    """An object as an owner gets it from who had it before: nobody waits here for that owner."""

    waits_for_owner = False


class PeerSource(Source):
    """An object of which we keep a copy, as its owner has it.

    Args:
        source: The same object in its store.
        peer: The bucket, as that gateway serves it.
        key: Object name.
    """

    from_owner = True

    def __init__(self, source: StoreSource, peer: Store, key: str) -> None:
        self.entry_name = source.entry_name
        self.label = source.label
        self.freshness = source.freshness
        self._source = source
        self._peer = peer
        self._key = key

    async def open(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        prefix: bytes | None = None,  # noqa: ARG002
    ) -> ObjectStream:
        try:
            return await self._peer.get(self._key, start=start, end=end, if_match=if_match)
        except UpstreamUnavailable:
            return await self._source.open(start=start, end=end, if_match=if_match)

    def without_owner(self) -> Source:
        return self._source

    async def head(self) -> ObjectMeta:
        try:
            return await self._peer.head(self._key)
        except UpstreamUnavailable:
            return await self._source.head()


class InheritedSource(Source):
    """An object of ours that another gateway may have, because it was that one's a while ago.

    What that gateway sends is used if it is of the version that the store has, which is asked after the fill began, as
    it always is: so a write that another gateway has not heard of yet is not undone.

    Args:
        source: The object in its store.
        peer: The bucket, as that gateway has it in its cache.
        key: Object name.
    """

    ranged = True

    def __init__(self, source: StoreSource, peer: Store, key: str) -> None:
        self.entry_name = source.entry_name
        self.label = source.label
        self.freshness = source.freshness
        self._source = source
        self._peer = peer
        self._key = key
        self._etag = ""

    async def open(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        prefix: bytes | None = None,  # noqa: ARG002
    ) -> ObjectStream:
        stream = None
        if if_match in {None, self._etag}:
            with suppress(GatewayError):
                stream = await self._peer.get(self._key, start=start, end=end, if_match=if_match)
        if stream is not None:
            if if_match or await self._is_current(stream):
                return stream
            await stream.aclose()
        return await self._source.open(start=start, end=end, if_match=if_match)

    async def _is_current(self, stream: ObjectStream) -> bool:
        try:
            now = await self._source.head()
        except BaseException:
            await stream.aclose()
            raise
        current = (now.etag, now.weak, now.size) == (stream.meta.etag, False, stream.meta.size)
        self._etag = now.etag if current else ""
        return current

    async def head(self) -> ObjectMeta:
        return await self._source.head()
