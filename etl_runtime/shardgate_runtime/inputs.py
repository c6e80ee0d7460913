"""The raw shard as a sequence of bytes, from a local file or from a URL.

A worker on the gateway's machine gets an open file descriptor and reads with `pread`: payloads straight into the bytes
object that user code gets, small reads through a small buffer. Elsewhere it pulls the shard through HTTP; then the
length is verified, and a lost connection is continued by range with `If-Match`, so that no byte of another version
and no short body can pass for the shard. What need not be the same when it is read again (a weak etag, the result of an
earlier stage of a pipeline) is never continued: the job fails, and another one begins at the first byte.
"""

from __future__ import annotations

import http.client
import os
import time
from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate.chunks import gaps_of
from shardgate_runtime.failures import JobFailed, describe, input_unavailable
from shardgate_runtime.http_get import PROGRESS_TIMEOUT, BadRedirect, asks_to_return, framing_of, get, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

BUFFER_BYTES = 16 << 10
"""Bytes per read of headers and small members; larger members are read by themselves."""
SKIP_BYTES = 1 << 20
STAGE_TIMEOUT = 900.0
"""Seconds without a byte of an earlier stage's result: the gateway watches its worker by shorter limits of its own."""
MAX_DIGITS = 18
"""Of a size in a header; Python refuses to convert thousands of them."""
BACKOFF = (0.1, 0.4, 1.6, 4.0)
"""Seconds before each new connection; progress starts the row anew."""


class Input(ABC):
    """Sequential bytes of one shard.

    Attributes:
        position: Offset in the shard of the next byte that `read` returns.
        size: Bytes of the shard, None while that is unknown.
        gaps: Samples that are missing from it for a cause that may pass, known at its end.
    """

    position: int
    size: int | None
    gaps: int = 0

    @abstractmethod
    def read(self, count: int) -> bytes:
        """Return `count` bytes; fewer only if the shard ends here."""

    @abstractmethod
    def skip_to(self, position: int) -> bool:
        """Go forward. False if the shard ends before `position`."""

    @abstractmethod
    def close(self) -> None:
        """Free what `read` needs. Idempotent."""

    def finish(self) -> None:  # noqa: B027 - most inputs need not be read beyond what was wanted of them
        """Nothing more is wanted. Raises JobFailed if what came can't be trusted after all."""

    def read_all(self, limit: int) -> bytes:
        """The rest of the shard.

        Raises:
            ValueError: It is longer than `limit`.
        """
        if self.size is not None and self.size - self.position > limit:
            raise ValueError(f"the object has {self.size} bytes, more than the {limit} that fit a bytes transform")
        data = self.read(limit + 1 if self.size is None else self.size - self.position)
        if len(data) > limit:
            raise ValueError(f"the object has more than the {limit} bytes that fit a bytes transform")
        return data


class FileInput(Input):
    """A shard that lies in a part of an open file. Owns the descriptor."""

    def __init__(self, fd: int, offset: int, size: int, start: int) -> None:
        self._fd = fd
        self._offset = offset
        self._buffer = b""
        self._buffer_at = start
        self.size: int = size
        self.position = start
        os.posix_fadvise(fd, offset + start, size - start, os.POSIX_FADV_SEQUENTIAL)

    def read(self, count: int) -> bytes:
        start = self.position - self._buffer_at
        stop = start + count
        if start >= 0 and stop <= len(self._buffer):
            data = self._buffer[start:stop]
        elif count >= BUFFER_BYTES:
            data = self._pread(count)
        else:
            self._buffer = self._pread(BUFFER_BYTES)
            self._buffer_at = self.position
            data = self._buffer[:count]
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> bool:
        if position > self.size:
            self.position = self.size
            return False
        self.position = position
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pread(self, count: int) -> bytes:
        count = min(count, self.size - self.position)
        at = self._offset + self.position
        data = os.pread(self._fd, count, at)
        while len(data) < count:  # a signal, or a file that is shorter than we were told
            more = os.pread(self._fd, count - len(data), at + len(data))
            if not more:
                raise input_unavailable(
                    f"the local copy of the shard ends at byte {self.position + len(data)} of {self.size}"
                )
            data += more
        return data


class HttpInput(Input):
    """A shard that is pulled from a gateway, from byte `start` on.

    Where the URL names a Service, the next connection may reach another gateway than the last one.

    Args:
        url, token, match, once, stages: As in `wire.Job`.
        start: First byte.
        headers: To go along with every GET.
    """

    def __init__(
        self,
        url: str,
        token: str,
        match: str,
        start: int,
        *,
        once: bool = False,
        stages: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._once = once
        self._match = match
        self._stages = stages
        self._headers = {"Accept-Encoding": "identity", **(headers or {})}
        self._token = token
        if match.startswith('"'):
            self._headers["If-Match"] = match  # a weak one never matches, and is compared when the answer comes
        self._response: http.client.HTTPResponse | None = None
        self._failures = 0
        self.size: int | None = None
        self.position = start

    def read(self, count: int) -> bytes:
        data = self._read_some(count)
        if len(data) == count or not data:
            return data
        parts = [data]
        missing = count - len(data)
        while missing and (data := self._read_some(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def skip_to(self, position: int) -> bool:
        while self.position < position:
            if not self._read_some(min(position - self.position, SKIP_BYTES)):
                return False
        return True

    def finish(self) -> None:
        """Read an earlier stage to its end: what follows a tar's last sample is padding, and whether it succeeded."""
        while self._stages and self._read_some(SKIP_BYTES):
            pass

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response = None

    def _read_some(self, count: int) -> bytes:
        """At least one byte, or none at the verified end of the shard."""
        while count and self.position != self.size:  # of no bytes at all, an answer can't be told from its end
            try:
                response = self._response or self._connect()
                if self.position == self.size:  # the answer was that nothing is left, and its body is not the shard's
                    break
                data = response.read1(count)  # `read` waits for all, and loses what came where the connection breaks
            except _TryAgain as error:
                self._lost(str(error))
                continue
            except (OSError, http.client.HTTPException) as error:
                self._lost(describe(error))
                continue
            if data:
                self.position += len(data)
                self._failures = 0
                return data
            if self.size is None:  # a chunked body, and its last chunk has come
                self.size, self.gaps = self.position, gaps_of(response)
            elif self.position < self.size:
                self._lost(f"the connection closed at byte {self.position} of {self.size}")
        return b""

    def _lost(self, reason: str) -> None:
        self.close()
        if self._failures == len(BACKOFF) or (self._once and self.position):
            raise input_unavailable(
                f"reading {self._url} from byte {self.position} failed {self._failures + 1} times: {reason}"
            )
        time.sleep(BACKOFF[self._failures])
        self._failures += 1

    def _connect(self) -> http.client.HTTPResponse:
        headers = self._headers | ({"Range": f"bytes={self.position}-"} if self.position else {})
        try:
            response = self._response = get(
                self._url, headers, self._token, STAGE_TIMEOUT if self._stages else PROGRESS_TIMEOUT
            )
        except BadRedirect as error:
            raise input_unavailable(str(error)) from error
        if asks_to_return(response) and not self._stages:  # a worker that waited here would keep itself from others
            raise _TryAgain(f"answered {response.status}: {text_of(response)}")
        self._check(response)
        return response

    def _check(self, response: http.client.HTTPResponse) -> None:
        total = _total(response.headers.get("Content-Range", ""))
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and total == self.position:
            self.size = total
            return
        expected = HTTPStatus.PARTIAL_CONTENT if self.position else HTTPStatus.OK
        if response.status != expected:
            raise self._refused(response)
        length, problem = framing_of(response)
        if problem:
            raise input_unavailable(f"the end of {self._url} can't be known: {problem}")
        if self._match and response.headers.get("ETag") != self._match:
            raise input_unavailable(
                f"{self._url} has the version {response.headers.get('ETag')} by now, not {self._match}"
            )
        if self.position:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {self.position}-"):
                raise input_unavailable(f"{self._url} answered another range than asked for, from byte {self.position}")
        else:
            total = length
        if self.size is not None and total is not None and total != self.size:
            raise input_unavailable(f"{self._url} changed its size from {self.size} to {total} bytes")
        self.size = total if total is not None else self.size
        self.gaps = gaps_of(response)

    def _refused(self, response: http.client.HTTPResponse) -> JobFailed:
        with response:
            return JobFailed(wire.refused_input(self._url, self._stages, response.status, response.read(4096)))


class _TryAgain(Exception):
    """The server is there, and can't answer now."""


def _total(content_range: str) -> int | None:
    total = content_range.rpartition("/")[2]
    return int(total) if total.isascii() and total.isdigit() and len(total) <= MAX_DIGITS else None
