"""What a container is sent: an object from a file of this machine, or from the gateway that has it.

An input that breaks is not the container's fault, so it is remembered here: all that the request through which it was
sent knows is that its body ended early.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs

from shardgate import wire
from shardgate.framing import framing_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.cache.reader import FileSpan

PIECE_BYTES = 256 << 10
REFUSAL_BYTES = 4096


class InputFailed(Exception):
    """The input could not even be opened."""

    def __init__(self, failure: wire.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class InputBody(ABC):
    """Attributes: size: in bytes, where it is known. failure: why `chunks` raised."""

    size: int | None
    failure: wire.Failure | None = None

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """All of it, once."""

    def close(self) -> None:  # noqa: B027 - a file belongs to somebody else
        """Stop reading."""


async def open_source(session: aiohttp.ClientSession, job: wire.Job, input: FileSpan | None) -> InputBody:  # noqa: A002
    """The job's object.

    Raises:
        InputFailed: The gateway does not give it.
        aiohttp.ClientError, OSError: Nor does it say why.
    """
    return FileBody(input) if input is not None else await UrlBody.open(session, job)


class FileBody(InputBody):
    """A part of an open file, from the page cache."""

    def __init__(self, span: FileSpan) -> None:
        self._span = span
        self.size = span.length

    async def chunks(self) -> AsyncIterator[bytes]:
        place, end = self._span.offset, self._span.offset + self._span.length
        while place < end:
            data = os.pread(self._span.fd, min(PIECE_BYTES, end - place), place)
            if not data:
                self.failure = wire.Failure("input_unavailable", f"the local copy ends {end - place} bytes early")
                raise OSError(self.failure.message)
            place += len(data)
            yield data


class UrlBody(InputBody):
    """What a gateway answers: a raw object, or the result of an earlier stage."""

    def __init__(self, response: aiohttp.ClientResponse, size: int | None) -> None:
        self._response = response
        self.size = size

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, job: wire.Job) -> UrlBody:
        headers: dict[str, str] = {hdrs.AUTHORIZATION: f"Bearer {job.token}"} if job.token else {}
        if job.match.startswith('"'):
            headers[hdrs.IF_MATCH] = job.match  # a weak one never matches, and is compared when the answer comes
        headers.update(wire.stage_headers(job))
        response = await session.get(job.url, headers=headers)
        if response.status != HTTPStatus.OK:
            text = await response.content.read(REFUSAL_BYTES)
            response.close()
            raise InputFailed(wire.refused_input(job.url, job.stages, response.status, text))
        size, problem = framing_of(response.headers)
        found = response.headers.get(hdrs.ETAG)
        if problem:
            problem = f"the end of {job.url} can't be known: {problem}"
        elif job.match and found != job.match:
            problem = f"{job.url} has the version {found} by now, not {job.match}"
        if problem:
            response.close()
            raise InputFailed(wire.Failure("input_unavailable", problem))
        return cls(response, size)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._response.content.iter_any():
                yield data
        except (aiohttp.ClientError, OSError) as error:
            self.failure = wire.Failure("input_unavailable", f"reading {self._response.url} broke off: {error}")
            raise

    def close(self) -> None:
        self._response.close()
