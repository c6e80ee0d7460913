"""A bucket that is a web server: any one that answers GET, and one that takes PUT and DELETE where it allows them.

A web server promises less than an object store, so everything it says is checked before a byte goes on:

- *Encoding.* Asked for is `identity`; an answer whose Content-Encoding changes the bytes is not the object, and is
  refused.
- *HEAD.* Many servers answer it worse than GET: they refuse it, compress it, or leave the ETag out. It is believed
  where it says yes, and says as much as the GETs of this server. Else a GET is asked, of which only the head is read.
- *Version.* The ETag; without one, modification time and size, which makes the etag weak. Without either, every answer
  is a version of its own. `if_match` is compared here, not sent as If-Match, which many servers ignore and which must
  fail for weak etags (RFC 9110).
- *Ranges.* A 206 must name the range that was asked. A 200 to a range is the whole object: it is used when the range
  begins at 0, or when its strong etag is the one wanted, by skipping forward to the range, which costs transfer but no
  correctness; else it is refused.
- *End.* With a Content-Length, or a last chunk, the end is known and checked. Nothing else counts as an end: an answer
  with neither is refused before its first byte goes on.
- *Redirects.* Followed to the same host and to those in `allow_redirect_hosts` (`redirects.py`).

What the headers say is parsed in `origin_answer.py`. The client has no limit on a whole transfer, only
`progress_timeout` on the wait for the next byte.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from yarl import URL

from shardgate_gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    UpstreamCorrupt,
    UpstreamError,
    UpstreamUnavailable,
)
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store
from shardgate_gateway.stores.keys import check_key
from shardgate_gateway.stores.origin_answer import Span, fitting_etag, parse_retry_after, read_answer
from shardgate_gateway.stores.redirects import MAX_REDIRECTS, REDIRECTS, GuardedResolver, RedirectPolicy
from shardgate_gateway.stores.translate import NAMES, RANGES, Body, storing, translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.settings import UpstreamSettings
    from shardgate_gateway.stores.origin_answer import OriginAnswer

SAFE = "/"
"""All but letters, digits and `-_.~` is quoted: servers may read the other characters that a path may hold in ways of
their own (S3 takes `+` for a blank), and the quoted form is the character to all of them."""
READ_BUFFER = 256 << 10
"""Half of the bytes that may wait here for a slow reader, per transfer, before the sender is made to wait."""
CHANGED = "the server, or a proxy before it, changed the body on the way"
UNVERSIONED = "unversioned-"
BAD, RANGE_NOT_SATISFIABLE, FAILED = 400, 416, 500
NOBODY_THERE = (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError)
"""What a GET would meet as well."""
STATUS: dict[int, tuple[type[GatewayError], str]] = {
    400: (BadRequest, "the server refuses this URL"),
    401: (Forbidden, "the server wants a login; put it into the bucket's address: http://user:password@host/"),
    403: (Forbidden, "the server refuses access"),
    404: (NotFound, ""),
    405: (BadRequest, "the server does not take this method for this URL"),
    408: (UpstreamUnavailable, ""),
    409: (Conflict, NAMES),
    410: (NotFound, ""),
    412: (PreconditionFailed, ""),
    414: (BadRequest, "use a shorter key"),
    429: (UpstreamUnavailable, "the server asks for fewer requests"),
    501: (BadRequest, "the server does not take this method"),
}
"""Other 4xx are UpstreamError, other 5xx UpstreamUnavailable."""


class HttpOrigin(Store):
    """Everything below one URL.

    Args:
        base: `http(s)://[user:password@]host[:port]/path`.
        upstream: Timeouts.
        label: `provider://name`, for messages.
        allow_redirect_hosts: Other hosts (`host` or `host:port`) that may be redirected to.
    """

    def __init__(
        self, base: URL, upstream: UpstreamSettings, *, label: str, allow_redirect_hosts: tuple[str, ...] = ()
    ) -> None:
        self._base = str(base).rstrip("/")
        self._label = label
        self._policy = RedirectPolicy(base, allow_redirect_hosts)
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=upstream.connect_timeout, sock_read=upstream.progress_timeout
        )
        self._session: aiohttp.ClientSession | None = None
        self._facts: frozenset[str] = frozenset()
        """What the last GET told of its object."""

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        name = self._name(key)
        if end is not None and end <= start:
            raise BadRequest(f"the range {start}-{end} of {name} is empty")
        ranged = start > 0 or end is not None
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if ranged else {}
        with translating(name):
            response = await self._request("GET", key, headers)
        try:
            if response.status == RANGE_NOT_SATISFIABLE:
                await self._refuse_range(key, start, if_match, response)
            answer = self._read(key, response)
            span, meta = answer.span, self._meta(key, answer)
            self._facts = answer.facts
            self._check_version(meta, if_match)
            stop = _place(span, start, end, pinned=if_match is not None and not meta.weak, name=name)
            chunks = _Chunks(response, span, start, end if stop is None else stop, name)
            return ObjectStream(meta, start, stop, chunks, partial=span.partial)
        except BaseException:
            response.close()
            raise

    async def head(self, key: str) -> ObjectMeta:
        return await self._by_head(key) or await self._by_get(key)

    async def _by_head(self, key: str) -> ObjectMeta | None:
        """What HEAD says; None where a GET may say something else."""
        with translating(self._name(key)):
            try:
                response = await self._request("HEAD", key)
            except NOBODY_THERE:
                raise
            except (aiohttp.ClientError, GatewayError):
                return None
        try:
            answer = self._read(key, response)
        except GatewayError:
            return None
        finally:
            response.close()
        has_version = answer.etag or answer.last_modified
        return (
            self._meta(key, answer) if has_version and answer.span.size != 0 and self._facts <= answer.facts else None
        )

    async def _by_get(self, key: str) -> ObjectMeta:
        with translating(self._name(key)):
            response = await self._request("GET", key)
        try:
            answer = self._read(key, response)
        finally:
            response.close()
        self._facts = answer.facts
        return self._meta(key, answer)

    async def put(
        self, key: str, body: AsyncIterator[bytes], *, size: int | None = None, content_type: str | None = None
    ) -> ObjectMeta:
        source = Body(body)
        headers = {"Content-Type": content_type or "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        with storing(source, self._name(key)):
            response = await self._request("PUT", key, headers, source)
            response.close()
            self._check(key, response)
        return await self.head(key)

    async def delete(self, key: str) -> None:
        with translating(self._name(key)):
            response = await self._request("DELETE", key)
        response.close()
        self._check(key, response)

    async def list(
        self,
        prefix: str = "",  # noqa: ARG002
        *,
        token: str | None = None,  # noqa: ARG002
        limit: int = 1000,  # noqa: ARG002
        delimiter: bool = False,  # noqa: ARG002
    ) -> ListPage:
        raise BadRequest(
            f"{self._label} is a web server, and HTTP has no listing",
            hint="name the objects yourself, for example by a template like train-{000000..000099}.tar",
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _name(self, key: str) -> str:
        return f"{self._label}/{key}"

    def _url(self, key: str) -> URL:
        return URL(f"{self._base}/{quote(key, safe=SAFE)}", encoded=True)

    def _headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Accept-Encoding": "identity"}

    def _opaque(self, etag: str) -> str:
        """The identity of a version, from what stands between the quotes."""
        return fitting_etag(etag)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, resolver=GuardedResolver(URL(self._base).host or "")),
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER,
            )
        return self._session

    async def _request(
        self, method: str, key: str, headers: dict[str, str] | None = None, body: Body | None = None
    ) -> aiohttp.ClientResponse:
        """Ask, and follow redirects as far as they are allowed."""
        check_key(key)
        url = self._url(key)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._client().request(
                method,
                url,
                headers={**self._headers(), **(headers or {})},
                data=body,
                allow_redirects=False,
            )
            if response.status not in REDIRECTS:
                return response
            response.close()
            if body is not None:
                raise UpstreamError(f"{self._name(key)}: the server redirects a PUT", hint="use the address it names")
            target = self._policy.target(url, response.headers.get("Location", ""), self._name(key))
            if target.path == f"{url.path}/":
                raise NotFound(f"{self._name(key)} is a folder of the web server")
            url = target
        raise UpstreamError(f"{self._name(key)} was redirected more than {MAX_REDIRECTS} times")

    def _read(self, key: str, response: aiohttp.ClientResponse) -> OriginAnswer:
        """The head of a good answer; raises what another one stands for."""
        self._check(key, response)
        has_body = response.method != "HEAD"
        return read_answer(response.status, response.headers, self._name(key), has_body=has_body)

    def _check(self, key: str, response: aiohttp.ClientResponse) -> None:
        """Raise what a status stands for, unless it is a good one."""
        status = response.status
        if status < BAD:
            return
        otherwise = UpstreamUnavailable if status >= FAILED else UpstreamError
        ours, hint = STATUS.get(status, (otherwise, ""))
        retry_after = parse_retry_after(response.headers.get("Retry-After"))
        raise ours(f"{self._name(key)}: the server answered {status}", hint=hint, retry_after=retry_after)

    def _check_version(self, meta: ObjectMeta, if_match: str | None) -> None:
        if if_match not in {None, meta.etag}:
            raise PreconditionFailed(f"{self._name(meta.key)} has the etag {meta.etag} now, not {if_match}")

    def _meta(self, key: str, answer: OriginAnswer) -> ObjectMeta:
        size, modified = answer.span.size, answer.last_modified
        when = f"{modified.timestamp():.0f}" if modified else UNVERSIONED + secrets.token_hex(8)
        return ObjectMeta(
            key=key,
            size=size,
            etag=self._opaque(answer.etag) or f"{when}-{'' if size is None else size}",
            weak=answer.weak,
            last_modified=modified,
            content_type=answer.content_type,
        )

    async def _refuse_range(self, key: str, start: int, if_match: str | None, response: aiohttp.ClientResponse) -> None:
        """416: say how long the object is, or that it is another one now."""
        response.close()
        meta = await self.head(key)
        self._check_version(meta, if_match)
        raise RangeNotSatisfiable(f"{self._name(key)} has no byte {start}", size=meta.size or 0)


class _Chunks:
    """The wanted part of an answer's body; ends normally only at its announced end."""

    def __init__(self, response: aiohttp.ClientResponse, span: Span, start: int, stop: int | None, name: str) -> None:
        self._response = response
        self._skip = start - span.start
        self._left = None if stop is None else stop - start
        self._to_the_end = stop is None or stop == span.end
        self._known = span.end is not None
        self._name = name

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes | memoryview:
        while self._left != 0 or self._to_the_end:
            with translating(self._name):
                chunk: bytes | memoryview = await _read_some(self._response.content)
            if not chunk:
                self._finish()
                break
            if self._skip:
                skipped = min(self._skip, len(chunk))
                self._skip -= skipped
                chunk = memoryview(chunk)[skipped:]
            if chunk:
                return self._count(chunk)
        raise StopAsyncIteration

    def _count(self, chunk: bytes | memoryview) -> bytes | memoryview:
        if self._left is None:
            return chunk
        if len(chunk) > self._left:
            if self._to_the_end:
                raise UpstreamCorrupt(f"{self._name}: more bytes came than were announced", hint=CHANGED)
            chunk = memoryview(chunk)[: self._left]
        self._left -= len(chunk)
        return chunk

    def _finish(self) -> None:
        missing, self._left, self._to_the_end = self._left, 0, False
        if missing and self._known:
            raise UpstreamCorrupt(f"{self._name}: the body ended {missing} bytes early", hint=CHANGED)

    async def aclose(self) -> None:
        self._response.close()


async def _read_some(content: aiohttp.StreamReader) -> bytes:
    """What came, empty at the end. A break is raised behind the bytes before it, which aiohttp would forget."""
    try:
        return await content.readany()
    except aiohttp.ClientError:
        if came := content._read_nowait(-1):  # noqa: SLF001 (the public way raises, too)
            return came
        raise


def _place(span: Span, start: int, end: int | None, *, pinned: bool, name: str) -> int | None:
    """Where the wanted part of the answer stops, None where only the transport knows."""
    if span.size is not None and start >= span.size and (start or end is not None):
        raise RangeNotSatisfiable(f"{name} has no byte {start}", size=span.size)
    known = span.size if span.size is not None else span.end
    stop = known if end is None or known is None else min(end, known)
    if span.partial and (span.start, span.end) != (start, stop):
        raise UpstreamCorrupt(f"{name}: asked for {start}-{end}, the server sent {span.start}-{span.end}", hint=RANGES)
    if not span.partial and start and not pinned:
        raise UpstreamCorrupt(f"{name}: asked for a range, the server sent the whole object", hint=RANGES)
    return stop
