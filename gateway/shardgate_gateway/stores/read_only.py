"""A bucket that refuses PUT and DELETE, whatever the store behind it allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardgate_gateway.errors import BadRequest
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HINT = "the bucket is configured with read_only = true"


class ReadOnly(Store):
    def __init__(self, inner: Store, *, label: str) -> None:
        self._inner = inner
        self._label = label

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        return await self._inner.get(key, start=start, end=end, if_match=if_match)

    async def head(self, key: str) -> ObjectMeta:
        return await self._inner.head(key)

    async def put(
        self,
        key: str,
        body: AsyncIterator[bytes],  # noqa: ARG002
        *,
        size: int | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> ObjectMeta:
        raise BadRequest(f"{self._label} is read-only; {key!r} was not stored", hint=HINT)

    async def delete(self, key: str) -> None:
        raise BadRequest(f"{self._label} is read-only; {key!r} was not deleted", hint=HINT)

    async def list(
        self, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        return await self._inner.list(prefix, token=token, limit=limit, delimiter=delimiter)

    async def aclose(self) -> None:
        await self._inner.aclose()
