"""The body of a PUT, on its way to a store.

A body that breaks off raises out of the iterator, and by the store's contract nothing becomes visible then. A client
that asked first (`Expect: 100-continue`) is told to go on when the store begins to read, so that a refused upload costs
nothing. No limit covers a whole body; a sender that stands still, or sends next to nothing, is given up, since what was
gathered of its body is memory that others wait for.
"""

from __future__ import annotations

import asyncio
import mmap
from contextlib import asynccontextmanager, suppress
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, cast

from aiohttp import HttpVersion11, hdrs

from shardgate.text import safe_line
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.problems import ExpectationFailed, RequestStalled, TooLarge
from shardgate_gateway.stores.translate import translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shardgate_gateway.http.call import Call

PROGRESS_BYTES = 64 << 10
"""A sender that brings less for as long as we are patient stands still."""


class Upload:
    """One body.

    Args:
        call: The request.
        limit: Bytes it may have.
        patience: Seconds to wait for `PROGRESS_BYTES` of it.

    Raises:
        TooLarge: It says that it has more.
        ExpectationFailed: It expects what we do not know.
        BadRequest: Its content type can't be one.
    """

    def __init__(self, call: Call, limit: int, patience: float) -> None:
        self._call = call
        self._limit = limit
        self._patience = patience
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
        async for chunk in self._progressing():
            count += len(chunk)
            self._check_size(count)
            yield chunk
        if self.size is not None and count != self.size:
            raise BadRequest(f"the body broke off after {count} of {self.size} bytes", hint="nothing was stored")

    @asynccontextmanager
    async def in_file(self, folder: Path) -> AsyncIterator[bytes]:
        """The whole body, as memory that a nameless file in `folder` stands behind.

        Raises:
            LocalStorageError: The file can't be written.
        """
        with TemporaryFile(dir=folder) as file:
            async for chunk in self.chunks():
                with translating("an upload"):
                    await asyncio.to_thread(file.write, chunk)
            with translating("an upload"):
                file.flush()
            if not file.tell():
                yield b""
                return
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            try:
                yield cast("bytes", mapped)  # what is done with it needs no more than a buffer
            finally:
                with suppress(BufferError):  # a thread that was given up still looks at it
                    mapped.close()

    async def _progressing(self) -> AsyncIterator[bytes]:
        """What the sender sends; time counts only while we wait for it."""
        loop, content = asyncio.get_running_loop(), self._call.request.content
        waited, progress = 0.0, 0
        while True:
            begun = loop.time()
            try:
                async with asyncio.timeout(self._patience - waited):
                    chunk = await content.readany()
            except TimeoutError:
                raise RequestStalled(
                    f"the sender stood still for {self._patience:g} s", hint="nothing was stored; send it again"
                ) from None
            waited, progress = waited + loop.time() - begun, progress + len(chunk)
            if not chunk:
                return
            yield chunk
            if progress >= PROGRESS_BYTES:
                waited, progress = 0.0, 0

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise TooLarge(
                f"the body has {size} bytes or more, and {self._limit} are allowed",
                hint="serve.max_put_bytes limits objects, etl.package_bytes transform packages",
            )
