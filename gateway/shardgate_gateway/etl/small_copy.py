"""Small results that are kept from memory, while their first reader gets them straight from the worker.

What the reader pays is a copy of the first megabytes. All copies of a process together are bounded; a result that does
not fit any more is not kept this time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from shardgate_gateway.cache.source import Source
from shardgate_gateway.errors import GatewayError, PreconditionFailed
from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.etl.result_source import ResultSource

COPIES = 8
"""How many results of the largest small size may be held in memory at once, per process."""
log = logging.getLogger(__name__)


class SmallCopies:
    """All copies of one process.

    Args:
        cache: Keeps what turns out to be small.
        small: Most bytes of a small result (`etl.small_result_bytes`).
    """

    def __init__(self, cache: Cache, small: int) -> None:
        self._cache = cache
        self._small = small
        self._held = 0
        self._keeping: set[asyncio.Task[None]] = set()

    def begin(self, *, wanted: bool) -> SmallCopy:
        """A copy to fill; one that takes nothing where none is wanted."""
        return SmallCopy(self, self._small if wanted else 0)

    def reserve(self, count: int) -> bool:
        """Take `count` bytes of what all copies may hold, if there are so many left."""
        if self._held + count > COPIES * self._small:
            return False
        self._held += count
        return True

    def keep(self, result: ResultSource, body: bytes) -> None:
        """Have a whole result that was copied stored in the background."""
        task = asyncio.create_task(self._store(_Computed(result, body)))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def aclose(self) -> None:
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def _store(self, computed: _Computed) -> None:
        try:
            await self._cache.prefetch(computed)
        except GatewayError as error:
            log.warning("%s is not kept: %s", computed.label, error)
        finally:
            self.reserve(-len(computed))


class SmallCopy:
    """Collects a result as long as it is small."""

    def __init__(self, copies: SmallCopies, limit: int) -> None:
        self._copies = copies
        self._limit = limit
        self._parts: list[bytes] | None = [] if limit else None
        self._size = 0

    def add(self, chunk: memoryview) -> None:
        if self._parts is None:
            return
        if self._size + len(chunk) > self._limit or not self._copies.reserve(len(chunk)):
            self.drop()
            return
        self._size += len(chunk)
        self._parts.append(bytes(chunk))

    def take(self) -> bytes | None:
        """All of it, whose reservation now belongs to the caller; None where it was not small."""
        if self._parts is None:
            return None
        body, self._parts, self._size = b"".join(self._parts), None, 0
        return body

    def drop(self) -> None:
        self._parts = None
        self._copies.reserve(-self._size)
        self._size = 0


class _Computed(Source):
    """A result that is in memory, on its way into the cache."""

    def __init__(self, result: ResultSource, body: bytes) -> None:
        self.entry_name = result.entry_name
        self.label = result.label
        self.freshness = result.freshness
        self._body = body
        self._meta = ObjectMeta(
            key=result.meta.key,
            size=len(body),
            etag=result.meta.etag,
            weak=result.meta.weak,
            last_modified=result.meta.last_modified,
            content_type=result.meta.content_type,
        )

    def __len__(self) -> int:
        return len(self._body)

    async def open(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        prefix: bytes | None = None,  # noqa: ARG002
    ) -> ObjectStream:
        if if_match not in {None, self._meta.etag}:
            raise PreconditionFailed(f"{self.label} has the etag {self._meta.etag}, not {if_match}")
        end = len(self._body) if end is None else min(end, len(self._body))
        return ObjectStream(self._meta, start, end, self._chunks(start, end))

    async def head(self) -> ObjectMeta:
        return self._meta

    async def _chunks(self, start: int, end: int) -> AsyncIterator[memoryview]:
        if start < end:
            yield memoryview(self._body)[start:end]
