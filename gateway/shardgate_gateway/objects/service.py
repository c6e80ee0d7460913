"""Everything one can do with an object, given its bucket and key.

Reads go through the cache. A write is done by the gateway that owns the object, in the store first; then what every
gateway holds of the object is dropped, and `Written` or `Deleted` is announced (`events.py`).

`put` and `delete` are for work of the gateway's own: they go to the owner, whichever gateway that is. `put_here` and
`delete_here` are for who has found out already that this gateway is to do it: HTTP handlers, which pass a client's
request on with that client's token otherwise (`http/proxy_write.py`).
"""

from __future__ import annotations

import logging
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import hdrs

from shardgate.urls import Bucket as BucketName
from shardgate.urls import object_path
from shardgate_gateway.auth.scopes import WRITE, exact
from shardgate_gateway.cache.source import group_name
from shardgate_gateway.cluster.calls import error_from
from shardgate_gateway.cluster.connection import NotReached, json_object
from shardgate_gateway.objects.events import Deleted, Written
from shardgate_gateway.objects.members import open_member
from shardgate_gateway.stores.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.cluster.calls import Body, WriteAnswer
    from shardgate_gateway.objects.buckets import Bucket
    from shardgate_gateway.objects.events import ObjectEvent, ObjectListener
    from shardgate_gateway.objects.members import OpenMember
    from shardgate_gateway.objects.ownership import Ownership
    from shardgate_gateway.stores.base import ListPage

WRITE_SECONDS = 3600.0
"""How long the token of one write to another gateway is good: it is checked before the body is sent."""
log = logging.getLogger(__name__)


class Objects:
    """The objects of all buckets.

    Args:
        cache: Of this gateway.
        ownership: Which gateway an object belongs to.
    """

    def __init__(self, cache: Cache, ownership: Ownership) -> None:
        self.cache = cache
        self.ownership = ownership
        self._listeners: list[ObjectListener] = []

    def listen(self, listener: ObjectListener) -> None:
        """Have each write that this gateway does announced."""
        self._listeners.append(listener)

    # --- reading

    async def open(self, bucket: Bucket, key: str) -> Reading:
        """An open reading of the current version, for the caller to close. Raises as `Cache.open`."""
        return await self.cache.open(self.ownership.source(bucket, key))

    async def head(self, bucket: Bucket, key: str) -> ObjectMeta:
        """Describe the version that `open` would give. Raises as `Cache.head`."""
        return await self.cache.head(self.ownership.source(bucket, key))

    async def open_member(self, bucket: Bucket, key: str, name: str) -> OpenMember:
        """One member of a tar. Raises as `open_member`."""
        return await open_member(self.cache, self.ownership.source(bucket, key), name)

    async def list(
        self, bucket: Bucket, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        """One page of the objects whose keys begin with `prefix`. Arguments and errors as of `Store.list`."""
        return await bucket.store.list(prefix, token=token, limit=limit, delimiter=delimiter)

    async def pages(self, bucket: Bucket, prefix: str = "") -> AsyncIterator[ListPage]:
        """All pages, one after the other."""
        token = None
        while True:
            page = await self.list(bucket, prefix, token=token)
            yield page
            token = page.token
            if token is None:
                return

    async def prefetch(self, bucket: Bucket, key: str) -> ObjectMeta:
        """Fetch an object into the cache of this gateway, whole. Raises as `open`, and what the fetch fails with."""
        return await self.cache.prefetch(self.ownership.source(bucket, key))

    async def evict(self, bucket: Bucket, key: str, *, results: bool) -> int:
        """Drop it from the cache of this gateway, with the results of transforms of it; how many entries there were."""
        source = bucket.source(key)
        count = await self.cache.evict_group(group_name(source)) if results else 0
        return int(await self.cache.evict(source)) + count

    async def forget(self, bucket: Bucket, key: str) -> None:
        """Another gateway wrote or deleted this object: nothing older is served from here any more."""
        await self.cache.invalidate(bucket.source(key))

    # --- writing

    async def put(self, bucket: Bucket, key: str, body: Body, *, content_type: str | None = None) -> ObjectMeta:
        """Store a body whole or not at all, by the gateway that owns the object.

        Raises:
            GatewayError: What the store, or the owner, failed with.
        """
        headers = ((hdrs.CONTENT_TYPE, content_type),) if content_type else ()
        answer = await self._written_elsewhere(bucket, key, hdrs.METH_PUT, headers, body)
        if answer is None:
            return await self.put_here(bucket, key, body, content_type=content_type)
        return _meta(key, answer, content_type)

    async def delete(self, bucket: Bucket, key: str) -> None:
        """Remove an object, by the gateway that owns it. Raises as `Store.delete`."""
        if await self._written_elsewhere(bucket, key, hdrs.METH_DELETE, (), None) is None:
            await self.delete_here(bucket, key)

    async def put_here(self, bucket: Bucket, key: str, body: Body, *, content_type: str | None = None) -> ObjectMeta:
        """Store a body, by this gateway. Raises as `Store.put`."""
        try:
            meta = await bucket.store.put(key, body.chunks(), size=body.size, content_type=content_type)
        finally:
            await self._forget_everywhere(bucket, key)  # also after a failure: it may be stored all the same
        await self._announce(Written(bucket, key, meta))
        return meta

    async def delete_here(self, bucket: Bucket, key: str) -> None:
        """Remove an object, by this gateway. Raises as `Store.delete`."""
        try:
            await bucket.store.delete(key)
        finally:
            await self._forget_everywhere(bucket, key)
        await self._announce(Deleted(bucket, key))

    async def _forget_everywhere(self, bucket: Bucket, key: str) -> None:
        await self.forget(bucket, key)
        await self.ownership.forget_elsewhere(bucket, key)

    async def _announce(self, event: ObjectEvent) -> None:
        for listener in self._listeners:
            try:
                await listener(event)
            except Exception:
                log.exception("a listener failed at %s of %s/%s", type(event).__name__, event.bucket, event.key)

    async def _written_elsewhere(
        self, bucket: Bucket, key: str, method: str, headers: Sequence[tuple[str, str]], body: Body | None
    ) -> WriteAnswer | None:
        """Have the owner do it, or who stands in for it; None where this gateway is to do it."""
        calls = self.ownership.calls
        if calls is None:
            return None
        target = object_path(BucketName(bucket.provider, bucket.name), key, {})
        token = calls.credentials.token_for(f"{WRITE}:{exact(f'{bucket}/{key}')}", WRITE_SECONDS)
        lines = [*headers, ("Authorization", f"Bearer {token}"), calls.proof()]
        for member in self.ownership.before_me(bucket, key):
            try:
                answer = await calls.write(member, method, target, lines, body)
            except NotReached as error:
                calls.peers.suspect(member, error)
                continue
            if answer.status >= HTTPStatus.BAD_REQUEST:
                problem = json_object(answer.content) or {"message": f"gateway {member.name} answered {answer.status}"}
                raise error_from(problem)
            return answer
        return None


def _meta(key: str, answer: WriteAnswer, content_type: str | None) -> ObjectMeta:
    """The version that the owner says it wrote."""
    described = json_object(answer.content) or {}
    etag = answer.headers.get(hdrs.ETAG, "")
    modified = described.get("last_modified")
    return ObjectMeta(
        key=key,
        size=described.get("size"),
        etag=unquote(etag.removeprefix("W/").strip('"')),
        weak=etag.startswith("W/"),
        last_modified=datetime.fromisoformat(modified) if modified else None,
        content_type=content_type,
    )
