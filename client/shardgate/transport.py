"""Requests to the gateway, over one urllib3 pool per process.

A client may be carried into data-loader workers: by fork (a connection shared by two processes would mix their answers)
or by pickle. So the pool belongs to the process that made it, and a forked child makes its own. Time limits cover
connecting and lack of progress, never a whole body.

A DELETE is not repeated once it may have reached a gateway: it may be done, and the name may be that of a new object by
then. All other requests can be, by urllib3 or at the next gateway.

There may be several gateways. An endpoint may name some of them; the next one is asked where one does not answer. And
a GET may be redirected to the gateway that has the object (`reach.py`); if that one fails, the endpoint is asked again.
"""

from __future__ import annotations

import json
import os
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError

from shardgate import wire
from shardgate.error_header import unpack_error
from shardgate.errors import BY_CODE, BY_STATUS, Busy, GatewayError, GatewayUnreachable, InvalidName
from shardgate.framing import BODYLESS, FRAMING_HINT, Framing, framing
from shardgate.pools import pool_manager
from shardgate.reach import Reach
from shardgate.text import safe_line, safe_text
from shardgate.tracebacks import Concise
from shardgate.wire import paths
from shardgate.wire.paths import OBJECTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import BinaryIO

    from urllib3 import BaseHTTPResponse

CONNECT_SECONDS = 10.0
PROGRESS_SECONDS = 300.0
"""Without a byte, before a request is given up."""
DIRECT_SECONDS = 1.0
"""To connect to a gateway that was reached before."""
NOT_REPEATED = urllib3.Retry(connect=1, read=0, redirect=5, status=0, other=0, respect_retry_after_header=False)
MAX_ERROR_BYTES = 1 << 20
"""Of an error answer that are read; a longer one is shown by its beginning."""
MAX_MESSAGE = 32 << 10
"""Characters of an error that a reader is shown."""
_MESSAGE = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)')
"""The string of that name, as far as it goes."""

_reaches: dict[str, Reach] = {}
"""By first endpoint: a transport lives as long as one URL is open, the gateways live longer."""


class Transport:
    """Sends requests; answers of 400 and above become exceptions.

    Args:
        endpoint: `http://host:port` of the gateway, or of several with commas between them.
        token: Bearer token, or None.
        timeout: Seconds without any progress after which a request is given up.

    Attributes:
        endpoint: The first one: URLs are made with it.
        endpoints: All of them.
    """

    def __init__(self, endpoint: str, token: str | None, timeout: float) -> None:
        self.endpoints = tuple(part.strip().rstrip("/") for part in endpoint.split(","))
        for part in self.endpoints:
            parts = urlsplit(part)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise InvalidName(
                    f"endpoint {part!r} is not an HTTP URL", hint=f"write it like {wire.DEFAULT_ENDPOINT}"
                )
        self.endpoint = self.endpoints[0]
        self.reach = _reaches.setdefault(self.endpoint, Reach())
        self.token = token
        self.timeout = timeout
        self._connect_seconds = min(CONNECT_SECONDS, timeout)
        self._pool: urllib3.PoolManager | None = None
        self._owner = 0

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | BinaryIO | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        patient: bool = False,
    ) -> BaseHTTPResponse:
        """Send, and return the answer with its body unread; the caller reads it all, or closes it.

        Args:
            method: HTTP method.
            target: Path and query below the endpoint, or a whole URL.
            body: What to send.
            headers: More headers.
            patient: The gateway works before it answers, however long that takes.

        Raises:
            GatewayUnreachable: No answer.
            GatewayError: An answer of 400 or above, by its code.
        """
        target = target.removeprefix(self.endpoint)
        authorization = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        options: dict[str, Any] = {
            "body": body,
            "headers": {"Accept-Encoding": "identity", **authorization, **(headers or {})},
            "timeout": urllib3.Timeout(connect=self._connect_seconds, read=None if patient else self.timeout),
            "preload_content": False,
            "decode_content": False,
        }
        if method == "DELETE":
            options["retries"] = NOT_REPEATED
        follows = method in ("GET", "HEAD") and target.startswith(OBJECTS)
        response = (self._directly(method, target, options) if follows else None) or self._send(method, target, options)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise error_from(response)
        return response

    def _directly(self, method: str, target: str, options: dict[str, Any]) -> BaseHTTPResponse | None:
        """Ask so that we may be redirected to the gateway that has the object; None if that came to nothing."""
        self.reach.learn(self._show_cluster)
        reached = self.reach.headers()
        headers = {**options["headers"], **reached}
        response = self._send(method, target, {**options, "headers": headers, "redirect": not reached})
        self.reach.saw(response.headers)
        if not response.get_redirect_location():
            return response
        response.drain_conn()
        found = self.reach.leads_to(response.headers)
        if found is None:
            return None
        name, url = found
        timeout = urllib3.Timeout(connect=DIRECT_SECONDS, read=self.timeout)
        try:
            return self._connections().request(method, url, **{**options, "timeout": timeout, "retries": False})
        except HTTPError:
            self.reach.lost(name)
            return None

    def _send(self, method: str, target: str, options: dict[str, Any]) -> BaseHTTPResponse:
        """Ask the endpoint, or the next one where it does not answer; a stream can be sent only once."""
        repeatable = options["body"] is None or isinstance(options["body"], bytes)
        endpoints = self.endpoints if repeatable and target.startswith("/") else self.endpoints[:1]
        for endpoint in endpoints:
            url = endpoint + target if target.startswith("/") else target
            try:
                response = self._connections().request(method, url, **options)
            except HTTPError as error:
                cause = error
                if method == "DELETE" and not _was_never_sent(error):
                    hint = "it may be done all the same: look before you repeat it"
                    raise GatewayUnreachable(f"no answer from {endpoint}: {reason(error)}", hint=hint) from None
                continue
            if endpoint != self.endpoints[0]:  # the one that answered is asked first from now on
                self.endpoints = (endpoint, *(other for other in self.endpoints if other != endpoint))
            return response
        shown = " or ".join(endpoints)
        hint = f"is `shardgate serve` running at {shown}?"
        raise GatewayUnreachable(f"no answer from {shown}: {reason(cause)}", hint=hint)

    def _show_cluster(self, challenge: str) -> Any:
        return self.json("GET", f"{paths.CLUSTER}?challenge={challenge}")

    def json(self, method: str, target: str, **options: Any) -> Any:
        """Send, and decode the JSON answer; None where it is empty. Takes the options of `request`."""
        with Concise():
            text = self.read(method, target, **options)
        return json.loads(text) if text else None

    def read(self, method: str, target: str, **options: Any) -> bytes:
        """Send, and read the whole answer. Takes the options of `request`."""
        return self.answer(method, target, **options)[0]

    def answer(self, method: str, target: str, **options: Any) -> tuple[bytes, Mapping[str, str]]:
        """As `read`, with the headers of the answer."""
        response = self.request(method, target, **options)
        try:
            if response.status not in BODYLESS and (problem := framing_of(response).problem):
                response.close()
                raise GatewayUnreachable(f"the end of an answer can't be known: {problem}", hint=FRAMING_HINT)
            return response.read(), response.headers
        except HTTPError as error:
            raise GatewayUnreachable(f"the answer of {self.endpoint} broke off: {reason(error)}") from None
        finally:
            response.release_conn()

    def close(self) -> None:
        """Close idle connections."""
        if self._pool is not None and self._owner == os.getpid():
            self._pool.clear()

    def _connections(self) -> urllib3.PoolManager:
        if self._pool is None or self._owner != os.getpid():
            self._owner = os.getpid()
            # One more try covers a kept-alive connection that the gateway closed just now.
            self._pool = pool_manager(
                urllib3.Retry(
                    total=6, connect=1, read=1, redirect=5, status=0, other=0, respect_retry_after_header=False
                )
            )
        return self._pool


def _was_never_sent(error: HTTPError) -> bool:
    """Whether there was no connection by which a request could have arrived."""
    cause = error.reason if isinstance(error, MaxRetryError) else error
    return isinstance(cause, NewConnectionError | ConnectTimeoutError)


def framing_of(response: BaseHTTPResponse) -> Framing:
    """Where the body of an answer ends."""
    return framing(response.headers.getlist("Content-Length"), response.headers.getlist("Transfer-Encoding"))


def error_from(response: BaseHTTPResponse) -> GatewayError:
    """Read an error answer; one that is not ours (of a proxy) is judged by its status."""
    said = _problem_in(_beginning_of(response)) or unpack_error(response.headers.get(wire.ERROR_HEADER, ""))
    code = safe_line(said.get("code", ""), 200)
    kind = BY_CODE.get(code) or BY_STATUS.get(response.status, GatewayError)
    retry_after = response.headers.get("Retry-After", "")
    error = kind(
        safe_text(said.get("message") or f"HTTP status {response.status} {response.reason or ''}".strip(), MAX_MESSAGE),
        hint=safe_text(said.get("hint", ""), MAX_MESSAGE),
        status=response.status,
        code=code,
        request_id=safe_line(said.get("request_id") or response.headers.get(wire.REQUEST_ID_HEADER, ""), 200),
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )
    if isinstance(error, Busy):
        error.place = safe_line(response.headers.get(wire.PLACE_HEADER, ""), 200)
    return error


def _beginning_of(response: BaseHTTPResponse) -> bytes:
    """What an error answer says, as far as we read; the connection is kept only if that is all of it."""
    try:
        data: bytes = response.read(MAX_ERROR_BYTES)
        if len(data) < MAX_ERROR_BYTES:
            response.release_conn()
            return data
    except HTTPError:
        data = b""
    response.close()
    return data


def _problem_in(body: bytes) -> dict[str, Any]:
    """The JSON object of an error answer; where it was cut, the beginning of its message."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        found = _MESSAGE.search(body.decode(errors="replace"))
        return {"message": json.loads(f'"{found[1]}"', strict=False) + "…"} if found else {}
    return problem if isinstance(problem, dict) else {}


def reason(error: BaseException) -> str:
    """The innermost cause, without urllib3's repr of pools and connections."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return reason(inner)
    cause = error.__cause__ or error.__context__
    return str(cause if isinstance(cause, OSError) else error).rsplit(": ", 1)[-1]
