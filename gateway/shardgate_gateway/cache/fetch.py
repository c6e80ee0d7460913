"""Reading one version of an object to the end, whatever the network does.

A stream that breaks is opened again where it broke, with `If-Match`, so that bytes of two versions are never mixed.
Only failures in a row count: progress resets them, so a body of any length survives any number of resets. A version
with a weak etag can't be named in a condition; it is opened again only while no byte of it was given out. A source
that makes its bytes anew each time is told the digest of those that were given out before, and proves that it goes on
with the same body.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import TYPE_CHECKING

import xxhash

from shardgate_gateway.errors import (
    GenerationChanged,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    UpstreamCorrupt,
    UpstreamError,
    UpstreamStalled,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.settings import UpstreamSettings
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

PASSING = (UpstreamUnavailable, UpstreamStalled, UpstreamCorrupt)
"""Failures after which another try may succeed."""
LONGEST_PAUSE = 10.0


class Patience:
    """Counts failures in a row, and waits before the next try."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._attempts = settings.attempts
        self._backoff = settings.backoff_seconds
        self._failures = 0

    def progress(self) -> None:
        self._failures = 0

    async def failed(self, error: Exception) -> None:
        """Wait, or raise `error` again when it was the last try."""
        self._failures += 1
        if self._failures >= self._attempts:
            raise error
        pause = self._backoff * 2 ** (self._failures - 1) * random.uniform(0.5, 1)  # noqa: S311 (jitter)
        asked = getattr(error, "retry_after", None) or 0.0
        await asyncio.sleep(min(max(pause, asked), LONGEST_PAUSE))


async def open_current(source: Source, settings: UpstreamSettings, end: int | None) -> ObjectStream:
    """Open whatever version is current from its first byte to `end`, or to its last.

    Raises:
        NotFound, Forbidden, UpstreamError: The last try's failure.
    """
    patience = Patience(settings)
    while True:
        try:
            return await source.open(end=end)
        except RangeNotSatisfiable:  # an empty object has no first byte to ask for
            end = None
        except PASSING as error:
            await patience.failed(error)


async def open_version(
    source: Source,
    meta: ObjectMeta,
    settings: UpstreamSettings,
    start: int,
    end: int | None,
    before: xxhash.xxh3_128 | None = None,
) -> ObjectStream:
    """Open bytes `[start, end)` of exactly this version; `before` and errors are as in `read_version`."""
    patience = Patience(settings)
    while True:
        try:
            return await _open(source, meta, start, end, before)
        except PASSING as error:
            await patience.failed(error)


async def read_version(
    source: Source,
    meta: ObjectMeta,
    settings: UpstreamSettings,
    *,
    start: int = 0,
    end: int | None = None,
    stream: ObjectStream | None = None,
    before: xxhash.xxh3_128 | None = None,
) -> AsyncGenerator[bytes | memoryview]:
    """Yield bytes `[start, end)` of exactly this version; ends normally only when all of them came.

    Args:
        source: Where they come from.
        meta: The version. Its size may be unknown; then the source says where the body ends.
        settings: How often to try again.
        start: First byte.
        end: One behind the last byte; None is the end of the body.
        stream: An open stream that begins at `start`; it may end before `end`.
        before: Of a source that is recomputed: over the bytes before `start`, if somebody has them. It is updated.

    Raises:
        GenerationChanged: The version is gone.
        UpstreamError: The last try's failure.
    """
    patience = Patience(settings)
    position, stop = start, meta.size if end is None else end
    if source.recomputed and not start:
        before = xxhash.xxh3_128()
    while stop is None or position < stop:
        try:
            async with aclosing(stream or await _open(source, meta, position, stop, before)) as opened:
                async for chunk in opened.chunks:
                    position += len(chunk)
                    if stop is not None and position > stop:
                        raise UpstreamError(f"{source.label} sent more than the {stop} bytes it was asked for")
                    patience.progress()
                    if before is not None:
                        before.update(chunk)
                    yield chunk
            if stop is None:
                return
            if opened.end is None or position < opened.end:
                raise UpstreamCorrupt(f"{source.label} ended at byte {position}, not at {stop}")
            stream = None
        except PASSING as error:
            stream = None
            if meta.weak and position > start and before is None:
                raise
            await patience.failed(error)


async def _open(
    source: Source, meta: ObjectMeta, start: int, end: int | None, before: xxhash.xxh3_128 | None
) -> ObjectStream:
    prefix = before.digest() if before is not None and start else None
    try:
        stream = await source.open(start=start, end=end, if_match=None if meta.weak else meta.etag, prefix=prefix)
    except (PreconditionFailed, NotFound, RangeNotSatisfiable) as error:
        raise changed(source) from error
    if stream.meta.etag == meta.etag and stream.start == start:
        return stream
    await stream.aclose()
    if stream.meta.etag != meta.etag:
        raise changed(source)
    raise UpstreamCorrupt(f"{source.label} was asked for byte {start} and began at {stream.start}")


def changed(source: Source) -> GenerationChanged:
    return GenerationChanged(f"{source.label} was overwritten or deleted while it was being read", hint="read it again")
