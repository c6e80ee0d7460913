"""Sends bodies: straight from files and shared memory into the client's socket, whole or visibly broken.

**Whole or broken.** A tar that is cut between two members reads as a shorter tar, so a reader can only learn from the
connection that something is missing. Once the headers are out, whatever goes wrong ends in a reset of the connection:
Content-Length is not reached, or the last chunk never comes, and the reader fails. There is no path on which a body
that is not complete is ended cleanly. A body of unknown length is never sent to an HTTP/1.0 reader, which could not
tell its end from its loss.

**No copies, no helpers.** aiohttp and uvloop would copy each part into a write buffer, and uvloop has no sendfile. So
the body goes through a duplicate of the socket's descriptor with `sendfile` and `writev`; where the socket is full, we
wait for it in the event loop (uvloop refuses to watch a descriptor that belongs to a transport, hence the duplicate,
which also can't become another connection's under our feet). When `write` returns, the kernel has all bytes, so a
buffer that is used again after that, like the ring of an ETL worker, can't be overwritten too early. Nothing is ever
queued for a slow reader, and no clock runs against one.

What can go wrong: bytes of an earlier answer may still wait in the transport (a reader that pipelines). They go first:
see `_Socket.settle`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from contextlib import aclosing
from typing import TYPE_CHECKING, Self

from aiohttp import web

from shardgate_gateway import metrics
from shardgate_gateway.cache.reader import FileSpan
from shardgate_gateway.cluster.connection import Incoming
from shardgate_gateway.http.problems import as_gateway_error
from shardgate_gateway.http.request_log import log_broken_off
from shardgate_gateway.http.splice import splice

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from http import HTTPStatus

    from aiohttp.web import BaseRequest

    from shardgate_gateway.http.call import Call

    Part = FileSpan | Incoming | bytes | memoryview

log = logging.getLogger(__name__)

TURN_BYTES = 1 << 20
"""Bytes after which other requests get their turn, also if this reader takes everything at once."""
_LINGER_RESET = struct.pack("ii", 1, 0)
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class ReaderLeft(Exception):
    """The client closed its connection."""


class Sent(web.StreamResponse):
    """Tells aiohttp about an answer that is on the wire already, of which `sent` bytes went out."""

    def __init__(self, status: HTTPStatus, *, keep_alive: bool, sent: int = 0) -> None:
        super().__init__(status=status)
        self._eof_sent = True
        self._keep_alive = keep_alive
        self.sent = sent


async def send_now(call: Call, status: HTTPStatus, head: bytes, content: bytes | memoryview = b"") -> Sent:
    """Send an answer that is in memory."""
    transport = call.request.transport
    if transport is None or transport.is_closing():
        return Sent(status, keep_alive=False)
    transport.writelines((head, content) if content else (head,))
    try:
        await call.request.writer.drain()
    except ConnectionError:
        return Sent(status, keep_alive=False)
    return Sent(status, keep_alive=not call.closing, sent=len(head) + len(content))


async def send_parts(
    call: Call,
    status: HTTPStatus,
    head: bytes,
    parts: AsyncGenerator[Part, None],
    *,
    length: int | None,
    trailers: Callable[[], str] = str,
) -> Sent:
    """Send a body as it comes.

    Errors before its first part are raised, so that they can still be told with a status; later ones reset the
    connection.

    Args:
        call: The request.
        status: Of the answer, for the record.
        head: Status line and headers.
        parts: The body; a part is not touched after the next one was asked for.
        length: Bytes that `head` promised; None where it promised chunks.
        trailers: Makes the header lines behind the last chunk, once all parts came.
    """
    async with aclosing(parts):
        first = await anext(parts, None)
        out = _Socket(call.request)
        try:
            with out:
                await out.settle()
                await out.write(head)
                await _send_rest(out, first, parts, length, trailers)
        except ReaderLeft:
            metrics.LEFT.inc()
        except asyncio.CancelledError:
            # The reader left, or the time to drain is over.
            reset(call.request)
            raise
        except Exception as error:  # noqa: BLE001 (after the headers every failure has the same end)
            break_off(call, error)
        else:
            return Sent(status, keep_alive=not call.closing, sent=out.sent)
    return Sent(status, keep_alive=False, sent=out.sent)


async def _send_rest(
    out: _Socket,
    first: Part | None,
    parts: AsyncGenerator[Part, None],
    length: int | None,
    trailers: Callable[[], str],
) -> None:
    sent = 0
    part = first
    while part is not None:
        size = part.length if isinstance(part, FileSpan | Incoming) else len(part)
        sent += size
        if length is None:
            if size:  # an empty chunk would say that the body is complete
                await out.write_chunk(part, size)
        elif sent > length:
            raise RuntimeError(f"the body is longer than the {length} bytes that were promised")
        else:
            await out.write_part(part)
        part = await anext(parts, None)
    if length is None:
        await out.write(b"0\r\n%s\r\n" % trailers().encode("ascii"))
    elif sent != length:
        raise RuntimeError(f"the body has {sent} of the {length} bytes that were promised")


def break_off(call: Call, error: Exception) -> None:
    """End an answer whose head is out, so that its reader sees that it is not whole, and say why in the log."""
    reset(call.request)
    ours = as_gateway_error(error, call.id)
    metrics.ABORTED.labels(ours.code).inc()
    log_broken_off(call, ours)


def reset(request: BaseRequest) -> None:
    """End the connection with RST: no reader takes that for the end of a body."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        transport.abort()


class _Socket:
    """The client's socket, written without a buffer in between."""

    def __init__(self, request: BaseRequest) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self.sent = 0
        """Bytes that the kernel has taken."""

    def __enter__(self) -> Self:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ReaderLeft
        self._fd = os.dup(transport.get_extra_info("socket").fileno())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    async def settle(self) -> None:
        """Wait until nothing of an earlier answer is left in the transport."""
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.set_write_buffer_limits(high=0)
            try:
                await self._request.writer.drain()
            except ConnectionError as error:
                raise ReaderLeft from error
            transport.set_write_buffer_limits()

    async def write_part(self, part: Part) -> None:
        if isinstance(part, FileSpan):
            await self._send_file(part)
        elif isinstance(part, Incoming):
            await self._pass_on(part)
        else:
            await self.write(part)

    async def write_chunk(self, part: Part, size: int) -> None:
        if isinstance(part, FileSpan | Incoming):
            await self.write(b"%x\r\n" % size)
            await self.write_part(part)
            await self.write(b"\r\n")
        else:
            await self.write(b"%x\r\n" % size, part, b"\r\n")

    async def write(self, *buffers: bytes | memoryview) -> None:
        """Return when the kernel has taken everything."""
        left = [memoryview(buffer).cast("B") for buffer in buffers]
        while left:
            try:
                count = os.writev(self._fd, left)
            except BlockingIOError:
                await self._writable()
                continue
            except OSError as error:
                raise ReaderLeft from error
            self.sent += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if left:
                left[0] = left[0][count:]

    async def _send_file(self, span: FileSpan) -> None:
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            try:
                count = os.sendfile(self._fd, span.fd, offset, min(end - offset, TURN_BYTES))
            except BlockingIOError:
                await self._writable()
                continue
            except OSError as error:
                if error.errno not in _NO_SENDFILE:
                    raise ReaderLeft from error
                await self._copy_file(FileSpan(span.fd, offset, end - offset))
                return
            if count == 0:
                raise RuntimeError("a cached file is shorter than it should be")
            offset += count
            self.sent += count
            if count == TURN_BYTES:
                await asyncio.sleep(0)

    async def _pass_on(self, part: Incoming) -> None:
        try:
            await splice(part, self._fd, self._writable)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            raise ReaderLeft from error
        self.sent += part.length

    async def _copy_file(self, span: FileSpan) -> None:
        """For file systems without sendfile."""
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            data = os.pread(span.fd, min(end - offset, TURN_BYTES), offset)
            if not data:
                raise RuntimeError("a cached file is shorter than it should be")
            await self.write(data)
            offset += len(data)

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._fd, _set, ready)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
