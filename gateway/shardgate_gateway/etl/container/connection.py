"""One object through a container: a request of ours, and its answer as the worker's chunks.

The relay knows nothing of it: an answer that ends is END, one that says no is FAIL, and whatever else happens to the
connection is a lost worker. What HTTP can't tell is where in the middle another one could go on, so every attempt
begins at the first byte, and `etl/progress.py` compares what was delivered already.

**Both ways at once.** A container may answer while it reads, or read everything first: aiohttp sends the request's body
in a task of its own. Neither side is buffered beyond some hundred kilobytes: a reader that pauses stops the container's
answer, and a container that pauses stops the upload.

**No limit but for progress.** Any byte in either direction counts. An answer without length and without chunks is
refused: its end would look like its loss. So is an encoded one: its bytes would be taken for the result.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import hdrs

from shardgate import wire
from shardgate.framing import framing_of
from shardgate_gateway.errors import TransformError, WorkerLost
from shardgate_gateway.etl.container.source import InputBody, InputFailed, open_source
from shardgate_gateway.etl.runner import Chunk, WorkerConnection
from shardgate_gateway.stores.origin_answer import coding_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeVar

    from shardgate_gateway.cache.reader import FileSpan

    T = TypeVar("T")

COMPLAINT_BYTES = 8 << 10
COMPLAINT_LINES = 12
LOOP_TURNS = 4
"""To see that a socket can be read, to read it, to wake who waits for the answer, and to have it looked at."""
LATER = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""Answers that say nothing about the object: another attempt may succeed."""
PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""What stands in a header as it is."""
START = wire.Checkpoint(0, 0, whole=False)


class ContainerConnection(WorkerConnection):
    """A job for a container.

    Args:
        session: Makes the requests.
        address: "host:port" of the container.
        container: What it speaks.
        job: What to send. Its `url` is read where there is no `input`.
        input: The object as a part of an open file; its descriptor is duplicated.
        progress_timeout: Seconds without a byte in either direction after which the container counts as hung.
        done: Called once, when the connection closes; True if the container was lost.
        environment: What its results depend on, as `wire.Hello.environment`; a container can't say it itself.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: str,
        container: wire.Container,
        job: wire.Job,
        input: FileSpan | None,  # noqa: A002 (as in Runner.connect)
        progress_timeout: float,
        done: Callable[[bool], None],
        environment: dict[str, str],
    ) -> None:
        self.hello = wire.Hello(worker=address, content_type=container.content_type, environment=environment)
        self._session = session
        self._container = container
        self._job = job
        self._input = input._replace(fd=os.dup(input.fd)) if input is not None else None
        self._timeout = progress_timeout
        self._done: Callable[[bool], None] | None = done
        self._lost = False
        self._limit: asyncio.Timeout | None = None
        self._body: InputBody | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._stats = wire.Stats(samples_in=1)
        self._began = time.monotonic()

    async def receive(self) -> Chunk | wire.End | wire.Failure:
        try:
            if self._response is None:
                response = self._response = await self._progressing(self._ask())
                if response.status != HTTPStatus.OK:
                    return await self._refused(response)
                _check_framing(response, self.hello.worker)
            content = self._response.content
            data = content.read_nowait() or await self._progressing(content.readany())
        except InputFailed as error:
            return self._told(error.failure)
        except (OSError, aiohttp.ClientError) as error:  # a timeout is an OSError
            return self._broken(error)
        if data:
            self._stats.bytes_out += len(data)
            return Chunk(memoryview(data), START)
        if self._body is not None and self._body.failure is not None:  # it took silence for the end of its input
            return self._told(self._body.failure)
        self._stats.samples_out = 1
        return wire.End(self._stats.bytes_out, self._stats_now())

    async def consumed(self, count: int) -> None:
        """Chunks have memory of their own."""

    def close(self) -> None:
        if self._done is None:
            return
        done, self._done = self._done, None
        if self._response is not None:
            self._response.close()
        if self._body is not None:
            self._body.close()
        if self._input is not None:
            os.close(self._input.fd)
        done(self._lost)

    async def _ask(self) -> aiohttp.ClientResponse:
        job, headers = self._job, _headers(self._job)
        if self._container.method == "get":
            if job.token:
                headers[hdrs.AUTHORIZATION] = f"Bearer {job.token}"
            return await self._session.get(self._target(url=job.url), headers=headers, allow_redirects=False)
        body = self._body = await open_source(self._session, job, self._input)
        if body.size is not None:
            headers[hdrs.CONTENT_LENGTH] = str(body.size)
        data = self._upload(body)
        return await self._session.put(self._target(), data=data, headers=headers, allow_redirects=False)

    def _target(self, **query: str) -> str:
        if self._job.args:
            query["args"] = self._job.args
        return f"http://{self.hello.worker}/" + (f"?{urlencode(query, quote_via=quote, safe='')}" if query else "")

    async def _upload(self, body: InputBody) -> AsyncIterator[bytes]:
        try:
            async for data in body.chunks():
                self._stats.bytes_in += len(data)
                yield data
                if self._limit is not None:
                    self._limit.reschedule(self._deadline())
                await _listen()
                if self._response is not None and self._response.status != HTTPStatus.OK:
                    return
        except Exception:
            if self._response is not None:  # aiohttp tells only who waits for the head of an answer
                self._response.close()
            raise

    async def _progressing(self, work: Awaitable[T]) -> T:
        """Wait for it as long as bytes move."""
        async with asyncio.timeout_at(self._deadline()) as limit:
            self._limit = limit
            try:
                return await work
            finally:
                self._limit = None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    async def _refused(self, response: aiohttp.ClientResponse) -> wire.Failure:
        """An answer that is no result."""
        if self._body is not None and self._body.failure is not None:
            return self._told(self._body.failure)
        said = await self._complaint(response)
        message = f"the container answered {response.status}" + (f": {said}" if said else "")
        if response.status in LATER:
            self._lost = True
            raise WorkerLost(message)
        hint = (
            "" if response.status >= HTTPStatus.BAD_REQUEST else "a result has status 200; redirects are not followed"
        )
        return self._told(wire.Failure("sample_failed", message, hint, key=self._job.key))

    async def _complaint(self, response: aiohttp.ClientResponse) -> str:
        """What it says.

        Raises:
            WorkerLost: It closed before it took the whole object, and its words were lost by that. Another try may
                hear them.
        """
        text = b""
        try:
            text = await self._progressing(response.content.read(COMPLAINT_BYTES))
        except TimeoutError:
            pass  # then its status is all that is known
        except (OSError, aiohttp.ClientError) as error:
            self._lost = True
            raise WorkerLost(f"the container answered {response.status}, and broke off before it said why") from error
        return "\n".join(text.decode(errors="replace").strip().splitlines()[:COMPLAINT_LINES])

    def _broken(self, error: Exception) -> wire.Failure:
        """The input broke, or the container did."""
        if self._body is not None and self._body.failure is not None:
            return self._told(self._body.failure)
        self._lost = True
        if isinstance(error, TimeoutError):
            raise WorkerLost(
                f"container {self.hello.worker} moved no byte in {self._timeout:g} s",
                hint="raise etl.progress_timeout if it computes for that long",
            ) from error
        raise WorkerLost(
            f"the connection to container {self.hello.worker} broke: {error or type(error).__name__}",
            hint=f"`shardgate etl logs {self._job.transform_id}` shows what it wrote last",
        ) from error

    def _told(self, failure: wire.Failure) -> wire.Failure:
        return replace(failure, stats=self._stats_now()).safe()

    def _stats_now(self) -> wire.Stats:
        self._stats.function_seconds = time.monotonic() - self._began
        return self._stats


async def _listen() -> None:
    """Let the loop take what came in before more is sent.

    A container that refuses an object closes without having read the rest. The next write then fails, and asyncio drops
    a connection whose write fails together with the answer that lies there unread.
    """
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


def _headers(job: wire.Job) -> dict[str, str]:
    """What a container is told of its job. A weak etag would only be refused where it has to match."""
    said = {
        wire.REQUEST_ID_HEADER: job.request_id,
        wire.ARGS_HEADER: job.args,
        wire.BUCKET_HEADER: job.bucket,
        wire.OBJECT_HEADER: job.key,
        **({wire.ETAG_HEADER: job.match[1:-1]} if job.match.startswith('"') else {}),
        wire.SEED_HEADER: str(job.seed),
        wire.EPOCH_HEADER: str(job.epoch),
    }
    return {name: quote(value, safe=PLAIN) for name, value in said.items()}


def _check_framing(response: aiohttp.ClientResponse, worker: str) -> None:
    if problem := framing_of(response.headers).problem:
        raise TransformError(
            f"the end of what container {worker} answered can't be known: {problem}",
            hint="answer by HTTP/1.1, with a Content-Length or chunks",
        )
    if coding := coding_of(response.headers):
        raise TransformError(
            f"container {worker} answered encoded as {coding}, which no reader would know of",
            hint="it is asked for `identity`: switch off what compresses its answers",
        )
