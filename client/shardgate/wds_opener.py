"""How webdataset opens our URLs: in Python, verified and continued, instead of through the `curl` program.

webdataset hands http URLs to `curl` and reads its pipe. Two things go wrong there when a body breaks off. curl exits
with an error, but webdataset looks at the exit status only at the instant when the pipe ends, mostly before curl is
gone; a tar that ends at a member's boundary, or inside a header, then reads as a shorter tar without any error. And
curl's own retries start from the first byte, into a pipe that already holds the beginning. curl has no token of the
client's, either.

So a client that hands out a URL while webdataset is loaded takes over URLs of its own gateway (`register_endpoint`),
in this process and its forked workers. Other URLs stay as they are, and so does everything if the program has put an
opener of its own in place of webdataset's. `install_opener` takes over all http URLs, for where curl is missing.
"""

from __future__ import annotations

import io
import sys
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shardgate.download import CHUNK, ObjectReader
from shardgate.errors import MissingExtra
from shardgate.transport import PROGRESS_SECONDS, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    Opener = Callable[..., IO[bytes]]

SCHEMES = ("http", "https")
_tokens: dict[str, str | None] = {}
"""What to send to which endpoint."""
_endpoints: dict[str, str] = {}
"""All endpoints of the client whose first one it is."""


def register_endpoint(endpoints: str, token: str | None) -> None:
    """Open URLs of a client's (first) endpoint in Python, if webdataset is loaded and opens them by curl."""
    endpoint = endpoints.partition(",")[0].strip().rstrip("/")
    _tokens[endpoint] = token
    _endpoints[endpoint] = endpoints
    gopen = sys.modules.get("webdataset.gopen")
    if gopen is None:
        return
    for scheme in SCHEMES:
        theirs = gopen.gopen_schemes.get(scheme)
        if theirs is not None and theirs is gopen.gopen_curl:
            gopen.gopen_schemes[scheme] = _opener(theirs)


def install_opener(token: str | None = None) -> None:
    """Make webdataset open all http and https URLs in Python, in this process and its forked workers.

    Args:
        token: Bearer token for URLs of no known client.

    Raises:
        MissingExtra: webdataset is not installed.
    """
    try:
        from webdataset.gopen import gopen_schemes  # noqa: PLC0415 - importing shardgate must not import webdataset
    except ImportError as error:
        raise MissingExtra("webdataset", "viz") from error

    def read(url: str, mode: str = "rb", bufsize: int = CHUNK) -> IO[bytes]:
        if not mode.startswith("r"):
            raise ValueError(f"{url} can only be read, and the mode is {mode!r}")
        return open_url(url, token=_tokens.get(_endpoint_of(url), token), bufsize=bufsize)

    gopen_schemes.update(dict.fromkeys(SCHEMES, read))


def open_url(url: str, *, token: str | None = None, bufsize: int = CHUNK) -> io.BufferedReader:
    """Open any http URL as a buffered stream that verifies its end and survives broken connections."""
    parts = urlsplit(url)
    endpoint = f"{parts.scheme}://{parts.netloc}"
    transport = Transport(_endpoints.get(endpoint, endpoint), token, PROGRESS_SECONDS)
    return io.BufferedReader(ObjectReader(transport, url, url), max(bufsize, CHUNK))


def _opener(theirs: Opener) -> Opener:
    def read_ours(url: str, mode: str = "rb", bufsize: int = CHUNK, **options: Any) -> IO[bytes]:
        endpoint = _endpoint_of(url)
        if endpoint in _tokens and mode.startswith("r"):
            return open_url(url, token=_tokens[endpoint], bufsize=bufsize)
        return theirs(url, mode, bufsize, **options)

    return read_ours


def _endpoint_of(url: str) -> str:
    """The known endpoint that a URL belongs to, or ""."""
    return next((endpoint for endpoint in _tokens if url.startswith(f"{endpoint}/")), "")
