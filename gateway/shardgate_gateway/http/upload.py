"""The body of a PUT, on its way to a store.

A body that breaks off raises out of the iterator, and by the store's contract nothing becomes visible then. A client
that asked first (`Expect: 100-continue`) is told to go on when the store begins to read, so that a refused upload costs
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs

from shardgate.text import safe_line
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.problems import ExpectationFailed, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.http.call import Call


class Upload:
    """One body.

    Args:
        call: The request.
        limit: Bytes it may have.

    Raises:
        TooLarge: It says that it has more.
        ExpectationFailed: It expects what we do not know.
        BadRequest: Its content type can't be one.
    """

    def __init__(self, call: Call, limit: int) -> None:
        self._call = call
        self._limit = limit
        self.size = call.request.content_length
        self.content_type = call.headers.get(hdrs.CONTENT_TYPE)
        if self.content_type is not None and not (self.content_type.isascii() and self.content_type.isprintable()):
            raise BadRequest(f"Content-Type can't be {safe_line(self.content_type, 80)!r}", hint="it is plain ASCII")
        self._check_size(self.size or 0)
        expectation = call.headers.get(hdrs.EXPECT, "").lower()
        if expectation not in ("", "100-continue"):
            raise ExpectationFailed(f"Expect: {expectation} is not understood")
        self._asks_first = expectation == "100-continue" and call.request.version >= HttpVersion11

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; ends normally only when all of them came."""
        transport = self._call.request.transport
        if self._asks_first and transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        count = 0
        async for chunk in self._call.request.content.iter_any():
            count += len(chunk)
            self._check_size(count)
            yield chunk
        if self.size is not None and count != self.size:
            raise BadRequest(f"the body broke off after {count} of {self.size} bytes", hint="nothing was stored")

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(
                f"the body has {size} bytes or more, and {self._limit} are allowed",
                hint="serve.max_put_bytes limits objects, etl.package_bytes transform packages",
            )
