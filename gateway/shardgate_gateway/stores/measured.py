"""A store whose requests are counted and timed, by bucket."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardgate_gateway import metrics
from shardgate_gateway.errors import (
    BadRequest,
    GatewayError,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
)
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NO_FAILURES = (NotFound, PreconditionFailed, RangeNotSatisfiable, BadRequest)
"""Answers to what was asked, as good as any."""


class Measured(Store):
    """Counts what goes to another store and comes from it; `label` is `provider://name`."""

    def __init__(self, inner: Store, *, label: str) -> None:
        self._inner = inner
        self._label = label
        self._received = metrics.UPSTREAM_RECEIVED.labels(label)
        self._sent = metrics.UPSTREAM_SENT.labels(label)

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        with self._measuring("get"):
            stream = await self._inner.get(key, start=start, end=end, if_match=if_match)
        stream.chunks = _Received(stream, self)
        return stream

    async def head(self, key: str) -> ObjectMeta:
        with self._measuring("head"):
            return await self._inner.head(key)

    async def put(
        self, key: str, body: AsyncIterator[bytes], *, size: int | None = None, content_type: str | None = None
    ) -> ObjectMeta:
        async def counted() -> AsyncIterator[bytes]:
            async for chunk in body:
                self._sent.inc(len(chunk))
                yield chunk

        with self._measuring("put"):
            return await self._inner.put(key, counted(), size=size, content_type=content_type)

    async def delete(self, key: str) -> None:
        with self._measuring("delete"):
            await self._inner.delete(key)

    async def list(
        self, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        with self._measuring("list"):
            return await self._inner.list(prefix, token=token, limit=limit, delimiter=delimiter)

    async def aclose(self) -> None:
        await self._inner.aclose()

    @contextmanager
    def _measuring(self, operation: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except GatewayError as error:
            self.count_error(operation, error)
            raise
        finally:
            metrics.UPSTREAM_REQUESTS.labels(self._label, operation).inc()
            metrics.UPSTREAM_DURATION.labels(self._label, operation).observe(time.monotonic() - began)

    def count_error(self, operation: str, error: GatewayError) -> None:
        if not isinstance(error, NO_FAILURES):
            metrics.UPSTREAM_ERRORS.labels(self._label, operation, error.code).inc()

    def count_received(self, count: int) -> None:
        self._received.inc(count)


class _Received:
    """The chunks of a stream, counted: the bytes once at the end, because a counter costs more than a chunk."""

    def __init__(self, stream: ObjectStream, store: Measured) -> None:
        self._chunks = stream.chunks
        self._next = aiter(stream.chunks).__anext__
        self._store = store
        self._bytes = 0

    def __aiter__(self) -> _Received:
        return self

    async def __anext__(self) -> bytes | memoryview:
        try:
            chunk = await self._next()
        except GatewayError as error:
            self._store.count_error("get", error)
            raise
        self._bytes += len(chunk)
        return chunk

    async def aclose(self) -> None:
        count, self._bytes = self._bytes, 0
        self._store.count_received(count)
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()
