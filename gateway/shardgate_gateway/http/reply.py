"""A reading, or what is known of one, becomes an answer: status, headers, and which bytes."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs

from shardgate import wire
from shardgate_gateway import metrics
from shardgate_gateway.http.body import Sent, send_now, send_parts
from shardgate_gateway.http.conditions import Version, not_modified, range_applies
from shardgate_gateway.http.head import entity, head
from shardgate_gateway.http.problems import VersionNotSupported
from shardgate_gateway.http.ranges import Span, parse_range

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.http.body import Part
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.stores.base import ObjectMeta

ACCEPT_RANGES = "Accept-Ranges: bytes\r\n"


async def send_reading(call: Call, reading: Reading, *, more: str = "") -> Sent:
    """Answer a GET with the reading's bytes, or the part that is asked for, or 304.

    Args:
        call: The request.
        reading: An open one; closing it stays with the caller.
        more: Further header lines.

    Raises:
        PreconditionFailed, RangeNotSatisfiable: As the request's headers say.
        GatewayError: The bytes can't be had, and nothing was sent yet.
    """
    meta = reading.meta
    if meta.size is not None:
        return await send_slice(call, reading, meta, Span(0, meta.size), more=gaps_line(reading.gaps) + more)
    if not_modified(call.headers, Version.of(meta)):
        return await send_not_modified(call, meta)
    trailers = lambda: gaps_line(reading.gaps)  # noqa: E731 (known when all parts came)
    return await send_chunked(call, meta, reading.parts(), cache=reading.state, more=more, trailers=trailers)


async def send_slice(call: Call, reading: Reading, meta: ObjectMeta, whole: Span, *, more: str = "") -> Sent:
    """Answer with a slice of the reading as if it were an object by itself, which `meta` describes."""
    version = Version.of(meta)
    if not_modified(call.headers, version):
        return await send_not_modified(call, meta)
    size = whole.end - whole.start
    status, span = HTTPStatus.OK, Span(0, size)
    wanted = call.headers.get(hdrs.RANGE)
    if wanted is not None and range_applies(call.headers, version) and (part := parse_range(wanted, size)):
        status, span = HTTPStatus.PARTIAL_CONTENT, part
        more = f"Content-Range: {part.content_range(size)}\r\n{more}"
    length = span.end - span.start
    top = _head(call, status, meta, length=length, cache=reading.state, more=ACCEPT_RANGES + more)
    start, end = whole.start + span.start, whole.start + span.end
    metrics.READS.labels(call.bucket, reading.state).inc()
    metrics.SENT_BYTES.labels(call.bucket, reading.state).inc(length)
    if reading.content is not None:
        return await send_now(call, status, top, memoryview(reading.content)[start:end])
    return await send_parts(call, status, top, reading.parts(start, end), length=length)


async def send_chunked(
    call: Call,
    meta: ObjectMeta,
    parts: AsyncGenerator[Part, None],
    *,
    cache: str,
    more: str = "",
    trailers: Callable[[], str] = str,
) -> Sent:
    """Answer with a body whose length is known only at its end.

    Raises:
        VersionNotSupported: HTTP/1.0 has no way to tell a complete body from one that was cut.
    """
    if call.request.version < HttpVersion11:
        raise VersionNotSupported(
            f"the size of {meta.key!r} is not known in advance, and HTTP/1.0 could not tell its end from its loss",
            hint="use HTTP/1.1; in nginx: proxy_http_version 1.1",
        )
    metrics.READS.labels(call.bucket, cache).inc()
    top = _head(call, HTTPStatus.OK, meta, length=None, cache=cache, more=more)
    return await send_parts(call, HTTPStatus.OK, top, parts, length=None, trailers=trailers)


def gaps_line(count: int) -> str:
    """The header line that says how many samples are missing from a result."""
    return f"{wire.GAPS_HEADER}: {count}\r\n" if count else ""


async def send_head(call: Call, meta: ObjectMeta, *, cache: str | None = None, more: str = "") -> Sent:
    """Answer a HEAD; without a size there is no Content-Length."""
    if not_modified(call.headers, Version.of(meta)):
        return await send_not_modified(call, meta)
    if meta.size is not None:
        more = ACCEPT_RANGES + more
    return await send_now(
        call, HTTPStatus.OK, _head(call, HTTPStatus.OK, meta, length=meta.size, cache=cache, more=more)
    )


async def send_not_modified(call: Call, meta: ObjectMeta) -> Sent:
    status = HTTPStatus.NOT_MODIFIED
    return await send_now(call, status, _head(call, status, meta, length=meta.size, cache=None))


def _head(
    call: Call, status: HTTPStatus, meta: ObjectMeta, *, length: int | None, cache: str | None, more: str = ""
) -> bytes:
    if cache is not None:
        more = f"{wire.CACHE_HEADER}: {cache}\r\n{more}"
    more = call.extra_headers + more
    return head(status, entity(meta), request_id=call.id, length=length, closing=call.closing, more=more)
