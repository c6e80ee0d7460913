"""One GET of a gateway's URL, with redirects and a bearer token, by the standard library alone.

A redirect is followed to where http or https lead, a few times. The token is for the gateway that the URL names, and
does not go along to another host. A gateway sends only those to another one who say that they reach it, which we do
not: for us it asks the other one itself.

A machine that dies says nothing. A connection that waits for bytes is kept alive by probes, so that this is noticed
within seconds; the longer time limit is for a server that is there and sends nothing.
"""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from shardgate.chunks import WholeResponse
from shardgate.framing import Framing, framing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

CONNECT_TIMEOUT = 5.0
PROGRESS_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""
PROBES = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
"""Seconds of silence before the first probe, seconds between two, and how many may stay unanswered."""
MAX_REDIRECTS = 5
REDIRECTS = frozenset(
    (
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    )
)


class BadRedirect(Exception):
    """A redirect that leads nowhere we go."""


def get(
    url: str, headers: Mapping[str, str], token: str, timeout: float = PROGRESS_TIMEOUT
) -> http.client.HTTPResponse:
    """Ask for a URL; the answer's head has come, its body has not. Closing the answer closes its connection.

    Raises:
        OSError, http.client.HTTPException: The connection failed.
        BadRedirect: The server sends us in circles, or away from http.
    """
    place = home = urlsplit(url)
    for _ in range(MAX_REDIRECTS):
        own = {"Authorization": f"Bearer {token}"} if token and place[:2] == home[:2] else {}
        response = _ask(place, {**headers, **own}, timeout)
        target = response.headers.get("Location")
        if response.status not in REDIRECTS or target is None:
            return response
        response.close()
        place = urlsplit(urljoin(place.geturl(), target))
        if place.scheme not in {"http", "https"} or not place.hostname:
            raise BadRedirect(f"{url} redirects to {target}, which is neither http nor https")
    raise BadRedirect(f"{url} redirects more than {MAX_REDIRECTS} times")


def connect(place: SplitResult, timeout: float = PROGRESS_TIMEOUT) -> http.client.HTTPConnection:
    """An open connection to the server of a URL."""
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=CONNECT_TIMEOUT)
    connection.response_class = WholeResponse
    connection.connect()
    connection.sock.settimeout(timeout)
    keep_alive(connection.sock)
    return connection


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel ask the other end of a TCP connection now and then whether it is still there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in PROBES.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def text_of(response: http.client.HTTPResponse) -> str:
    """What an answer that is not the one asked for says. Reads some of it, and closes it."""
    with response:
        text = response.read(4096).decode("utf-8", "replace")
    with suppress(ValueError, TypeError, KeyError):  # ours are JSON; another server's may be anything
        text = json.loads(text)["message"]
    return text


def framing_of(response: http.client.HTTPResponse) -> Framing:
    """Where the body of an answer ends."""
    headers = response.headers
    return framing(headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", []))


def asks_to_return(response: http.client.HTTPResponse) -> bool:
    """Whether this is a server that has too much to do now, and not one that failed to get what we want."""
    return response.status == HTTPStatus.SERVICE_UNAVAILABLE and "Retry-After" in response.headers


def target_of(place: SplitResult) -> str:
    """What of a URL stands in the request line."""
    return place._replace(scheme="", netloc="", fragment="").geturl() or "/"


def _ask(place: SplitResult, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    connection = connect(place, timeout)
    try:
        connection.request("GET", target_of(place), headers={"Connection": "close", **headers})
        response = connection.getresponse()
    except BaseException:
        connection.close()
        raise
    if connection.sock is not None:
        connection.sock.close()  # the answer still holds it, and now is the last to do so
    return response
