"""Small warm objects, answered as soon as their request is parsed.

aiohttp spends most of a small answer on things this one does not need: a task, a request object, a response object, a
header dictionary. So whatever the parser yields is looked at first: a plain GET of an object that is in memory is
written to the transport at once, and everything else goes on to aiohttp untouched. Nothing here parses HTTP, and
nothing here waits: if any doubt remains (a condition, a range, an earlier answer still in the buffer, a wrong token, a
body, a name that is not cached), the ordinary path decides.

The token is looked at first, and a request target is remembered only once it was answered from here, so who may not
read, or asks for what is not there, fills no memory.

It stands on aiohttp's connection internals (`_parser`, `_waiter`, `_messages`, `_next_keepalive_close_time`);
`tests/gateway/http/test_hot.py` fails when they change.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs
from aiohttp.streams import EMPTY_PAYLOAD

from shardgate import wire
from shardgate.wire.paths import OBJECTS
from shardgate_gateway import metrics
from shardgate_gateway.auth.scopes import READ
from shardgate_gateway.errors import GatewayError, Unauthenticated
from shardgate_gateway.http.auth import authenticate
from shardgate_gateway.http.call import request_id
from shardgate_gateway.http.head import entity, head
from shardgate_gateway.http.passing_on import copies_line
from shardgate_gateway.http.request import object_target
from shardgate_gateway.http.request_log import Answered, client_of, log_access

if TYPE_CHECKING:
    from asyncio import BaseTransport

    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import RequestHandler
    from multidict import CIMultiDictProxy

    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.kernel import Kernel

NEEDS_THOUGHT = (
    hdrs.RANGE,
    hdrs.IF_NONE_MATCH,
    hdrs.IF_MATCH,
    hdrs.IF_MODIFIED_SINCE,
    hdrs.IF_UNMODIFIED_SINCE,
    hdrs.EXPECT,
)
JOIN_BYTES = 16 << 10
"""Up to here copying head and body into one buffer is cheaper than a second one."""
TARGETS_BYTES = 16 << 20
"""Memory for request targets whose source is remembered, per process."""
TARGET_BYTES = 1024
"""Memory of a remembered source beside its target."""
TALLY_SECONDS = 1.0

_FIELDS = f"Accept-Ranges: bytes\r\n{wire.CACHE_HEADER}: hit\r\n"


class HotPath:
    """Answers what is in memory.

    Args:
        kernel: The gateway.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._tokens = kernel.tokens
        self._calls = kernel.calls
        self._keepalive = kernel.settings.serve.keepalive_seconds
        self._loop = asyncio.get_running_loop()
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._sources_bytes = 0
        self._answers: dict[str, list[int]] = {}
        """Count and bytes of answers by bucket, and how long those took that were fast, since the last flush."""
        self._fast = 0
        self._fast_seconds = 0.0
        self._logs_access = kernel.settings.log.access

    def answer(self, connection: RequestHandler, message: RawRequestMessage) -> bool:
        """Answer now, or leave it to the ordinary path (False)."""
        began = perf_counter()
        transport = connection.transport
        if (
            message.method != hdrs.METH_GET
            or message.should_close
            or self._kernel.traffic.draining
            or not message.path.startswith(OBJECTS)
            or transport is None
            or transport.get_write_buffer_size()
        ):
            return False
        headers = message.headers
        for name in NEEDS_THOUGHT:
            if name in headers:
                return False
        source = self._readable(message.path, headers)
        if source is None:
            return False
        reading = self._kernel.cache.lookup(source)
        if reading is None:
            return False
        content = reading.content
        reading.aclose()
        if content is None:
            return False
        self._remember(message.path, source)
        more = _FIELDS
        if self._calls is not None and self._calls.is_peer(headers):
            more += copies_line(self._calls.peers.popularity.count(source.entry_name))
        identity = request_id(headers)
        top = head(
            HTTPStatus.OK,
            entity(reading.meta),
            request_id=identity,
            length=len(content),
            closing=False,
            more=more,
        )
        if len(content) <= JOIN_BYTES:
            transport.write(top + content)
        else:
            transport.writelines((top, content))
        connection._next_keepalive_close_time = self._loop.time() + self._keepalive  # noqa: SLF001
        self._count(source.bucket, len(content), perf_counter() - began)  # the loop's clock stands still meanwhile
        if self._logs_access:
            self._log(identity, transport, message, len(top) + len(content))
        return True

    def _log(self, identity: str, transport: BaseTransport, message: RawRequestMessage, size: int) -> None:
        subject = authenticate(message.headers, self._tokens).subject
        path, _, _ = message.path.partition("?")
        log_access(Answered(identity, hdrs.METH_GET, path, HTTPStatus.OK, size, 0.0, subject, client_of(transport)))

    def _readable(self, raw: str, headers: CIMultiDictProxy[str]) -> Source | None:
        """The source of an object that this gateway serves, and that whoever asks may read."""
        try:
            grant = authenticate(headers, self._tokens)
        except Unauthenticated:
            return None
        source = self._sources.get(raw) or self._find_source(raw)
        if source is None or not grant.allows(READ, source.label):
            return None
        if self._calls is not None and not self._calls.peers.serves(source.entry_name):
            return None
        return source

    def _remember(self, raw: str, source: Source) -> None:
        if raw in self._sources:
            return
        self._sources[raw] = source
        self._sources_bytes += 2 * len(raw) + TARGET_BYTES
        while self._sources_bytes > TARGETS_BYTES:
            oldest, _ = self._sources.popitem(last=False)
            self._sources_bytes -= 2 * len(oldest) + TARGET_BYTES

    def _find_source(self, raw: str) -> Source | None:
        try:
            target = object_target(raw)
            return (
                self._kernel.buckets.find(target.bucket, target.provider).source(target.key) if target.plain else None
            )
        except GatewayError:
            return None

    def _count(self, bucket: str, size: int, seconds: float) -> None:
        """Metrics cost as much as the rest of this file, so they are added up and written once a second."""
        if not self._answers:
            self._loop.call_later(TALLY_SECONDS, self.flush)
        tally = self._answers.get(bucket)
        if tally is None:
            tally = self._answers[bucket] = [0, 0]
        tally[0] += 1
        tally[1] += size
        if seconds <= metrics.FAST_SECONDS:
            self._fast += 1
            self._fast_seconds += seconds
        else:
            metrics.FAST.inc()
            metrics.DURATION.labels("objects").observe(seconds)

    def flush(self) -> None:
        for bucket, (answers, size) in self._answers.items():
            metrics.REQUESTS.labels("objects", "200").inc(answers)
            metrics.READS.labels(bucket, "hit").inc(answers)
            metrics.SENT_BYTES.labels(bucket, "hit").inc(size)
        metrics.FAST.inc(self._fast)
        metrics.observe_fast(metrics.DURATION.labels("objects"), self._fast, self._fast_seconds)
        self._answers = {}
        self._fast, self._fast_seconds = 0, 0.0


class Parser:
    """aiohttp's parser, with an ear at what it yields."""

    def __init__(self, inner: Any, connection: RequestHandler, hot: HotPath) -> None:
        self._inner = inner
        self._connection = connection
        self._hot = hot

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        messages, upgraded, tail = self._inner.feed_data(data)
        if len(messages) == 1 and self._is_idle():
            message, body = messages[0]
            if body is EMPTY_PAYLOAD and self._hot.answer(self._connection, message):
                self._inner.message_consumed()
                messages = ()
        return messages, upgraded, tail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _is_idle(self) -> bool:
        """No earlier request of this connection is waiting or being answered."""
        waiter = self._connection._waiter  # noqa: SLF001
        return waiter is not None and not waiter.done() and not self._connection._messages  # noqa: SLF001
