"""A body read to its last byte: verified, and continued when the connection breaks.

A GET may break off in the middle: a gateway is restarted, a proxy gives up. The reader then asks for the rest, with
`Range` and `If-Match`, so that bytes of two versions are never mixed. An answer with status 200 instead of 206 is taken
only under the same strong ETag, which promises the same bytes, and its beginning is dropped. A body is whole if its
Content-Length came, or the last chunk of a chunked one; anything else raises.

**Results of transforms** may be made anew when they are asked for again: one that was kept may be evicted meanwhile,
and a strong ETag is no more than the function's promise. So they are read again from the first byte, and what was
handed out is compared by its checksum before another byte follows: a function that gives other bytes the second time
costs an error, and never a mixture.
"""

from __future__ import annotations

import io
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import xxhash
from urllib3.exceptions import HTTPError

from shardgate import wire
from shardgate.errors import Busy, Conflict, GatewayUnreachable, ObjectChanged, TransferIncomplete, UpstreamFailed
from shardgate.framing import FRAMING_HINT
from shardgate.notices import notice_empty, notice_ended, notice_opened
from shardgate.transport import Transport, framing_of, reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import BaseHTTPResponse

ATTEMPTS = 5
"""Tries in a row that bring no byte, before a transfer is given up."""
BACKOFF_SECONDS = 0.25
"""Before the second try; doubles."""
CHUNK = 1 << 20
TAR = "application/x-tar"
READ_BYTES = 256 << 10
"""Most that is taken from a connection at once: more costs memory that is seldom filled."""
PASSING = (Busy, UpstreamFailed, GatewayUnreachable)
"""Errors of a try to read on that another try may not meet."""


class ObjectReader(io.RawIOBase):
    """A readable stream of one version of an object.

    Attributes:
        size: Bytes, or None where the gateway can't know (a result that is being computed).
        etag: Of the version being read, as in the header; empty without one.
        position: Bytes handed out so far.
    """

    def __init__(
        self, transport: Transport, target: str, label: str, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__()
        self._transport = transport
        self._target = target
        self._label = label
        self._sleep = sleep
        self._failures = 0
        self._place: dict[str, str] = {}
        """What keeps our place in the line for a worker, as a header."""
        self.position = 0
        self._response = self._first()
        self.headers = self._response.headers
        self.size = self._length(self._response)
        self.etag = self.headers.get("ETag", "")
        is_weak = self.etag.startswith("W/")
        self._is_remade = wire.TRANSFORM_HEADER in self.headers
        self._can_continue = bool(self.etag) and (self._is_remade or not is_weak)
        self._digest = xxhash.xxh3_128()
        """Of the bytes handed out, where the body may be made anew."""
        self._has_only_zeros = self._is_remade and self.headers.get("Content-Type") == TAR
        notice_opened(target, self.headers)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill part of `buffer`; 0 is the verified end, or the answer to who asks for nothing.

        Raises:
            TransferIncomplete: It broke off, and reading on failed.
            ObjectChanged: It was overwritten meanwhile.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not memoryview(buffer).nbytes:
            return 0
        while True:
            broken: Exception | None = None
            try:
                count = self._read_some(buffer)
            except (HTTPError, OSError) as error:
                broken = error
            if broken is not None:  # outside of `except`: an error of the next try is no consequence of this one
                self._read_on(broken)
                continue
            if count == 0 and self.size is not None and self.position != self.size:
                self._read_on(TransferIncomplete(f"{self.position} of {self.size} bytes came"))
                continue
            self._take_in(memoryview(buffer)[:count])
            if not count:
                self._notice_end()
            return count

    def _read_some(self, buffer: bytearray | memoryview) -> int:
        """What came. A read that waits until it has all that was asked for loses it where the connection breaks."""
        data = self._response.read1(min(len(buffer), READ_BYTES))
        buffer[: len(data)] = data
        return len(data)

    def _take_in(self, part: memoryview) -> None:
        """Keep account of bytes that are handed out; none are the end."""
        if self._is_remade:
            self._digest.update(part)
        if self._has_only_zeros:
            self._has_only_zeros = not part.tobytes().strip(b"\0")
        self.position += part.nbytes
        if part.nbytes:
            self._failures = 0

    def _notice_end(self) -> None:
        notice_ended(self._label, self._response)
        if self._has_only_zeros and self.position:
            self._has_only_zeros = False
            notice_empty(self._label, self.headers[wire.TRANSFORM_HEADER], self._transport)

    def close(self) -> None:
        """Give the connection up; it is only kept for reuse after the last byte."""
        if not self.closed and hasattr(self, "_response"):
            self._response.close()
            self._response.release_conn()
        super().close()

    def _first(self) -> BaseHTTPResponse:
        while True:
            try:
                return self._transport.request("GET", self._target, headers=self._place)
            except Busy as error:
                self._wait(error)
            except GatewayUnreachable as error:
                if not self._transport.reach.answered:
                    raise
                self._wait(error)

    def _length(self, response: BaseHTTPResponse) -> int | None:
        """Of the answer's body, None where it is chunked.

        Raises:
            TransferIncomplete: Only a close would end it.
        """
        found = framing_of(response)
        if found.problem:
            response.close()
            raise TransferIncomplete(f"the end of {self._label} can't be known: {found.problem}", hint=FRAMING_HINT)
        return found.length

    def _read_on(self, cause: Exception) -> None:
        """Replace the broken answer by one that begins at `position`."""
        self._response.close()
        if not self._can_continue:
            raise TransferIncomplete(
                f"{self._label} broke off after {self.position} bytes ({reason(cause)}), and has no ETag to continue by"
            )
        while True:
            self._wait(cause)
            try:
                self._response = self._rest()
            except TransferIncomplete:
                raise
            except (*PASSING, HTTPError, OSError) as error:
                cause = error
            else:
                return

    def _rest(self) -> BaseHTTPResponse:
        # Also from byte 0: a result is then made whole before it is answered, so the cause of its failure is.
        # Where the size is unknown all bytes may have come, and only their end not: the last one is asked for again.
        start = 0 if self._is_remade else max(0, self.position - (self.size is None))
        headers = {"Range": f"bytes={start}-", **self._place}
        if not self.etag.startswith("W/"):
            headers["If-Match"] = self.etag
        try:
            response = self._transport.request("GET", self._target, headers=headers)
        except Conflict:
            raise ObjectChanged(f"{self._label} was overwritten after {self.position} bytes were read") from None
        if response.headers.get("ETag") != self.etag:
            response.close()
            raise ObjectChanged(f"{self._label} was overwritten after {self.position} bytes were read")
        self._length(response)
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            self._check_range(response, start)
        else:
            start = 0
        self._drop(response, self.position - start)
        return response

    def _check_range(self, response: BaseHTTPResponse, asked: int) -> None:
        span = response.headers.get("Content-Range", "")
        start, _, rest = span.removeprefix("bytes ").partition("-")
        total = rest.rpartition("/")[2]
        if start != str(asked) or (self.size is not None and total not in ("*", str(self.size))):
            response.close()
            raise TransferIncomplete(f"{self._label}: asked for bytes from {asked}, got {span!r}")

    def _drop(self, response: BaseHTTPResponse, left: int) -> None:
        """Read what was handed out already, and compare it where it was made anew."""
        digest = xxhash.xxh3_128()
        while left:
            chunk = response.read(min(left, CHUNK))
            if not chunk:
                raise TransferIncomplete(f"{self._label} is shorter than the {self.position} bytes already read")
            left -= len(chunk)
            digest.update(chunk)
        if self._is_remade and digest.digest() != self._digest.digest():
            response.close()
            raise TransferIncomplete(
                f"{self._label} broke off after {self.position} bytes, and came out differently when it was made again",
                hint="the transform is not deterministic: let its output depend on the sample, args, seed and epoch",
            )

    def _wait(self, cause: Exception) -> None:
        """Sleep before another try, or raise if there were enough of them; who has a place in a line waits on."""
        if isinstance(cause, Busy) and cause.place:
            self._place = {wire.PLACE_HEADER: cause.place}
            self._sleep(min(cause.retry_after or BACKOFF_SECONDS, 30.0))
            return
        self._failures += 1
        if self._failures >= ATTEMPTS:
            if isinstance(cause, Busy) or (not self.position and isinstance(cause, GatewayUnreachable)):
                raise cause
            hint = "the gateway's log, or `shardgate etl logs ID` for a transformed object, says why"
            came = f"{self._label} broke off after {self.position} bytes, and {ATTEMPTS} tries brought no more"
            raise TransferIncomplete(f"{came}: {reason(cause)}", hint=hint)
        asked = cause.retry_after if isinstance(cause, Busy) else None
        self._sleep(min(asked or BACKOFF_SECONDS * 2 ** (self._failures - 1), 30.0))
