"""Opening URLs for webdataset in Python, where the `curl` program is missing or its retries are not enough.

webdataset hands http URLs to `curl`. That is fast and notices a body that ends early, but it can't continue one: curl
retries from the start, into a pipe that already holds the beginning. This opener verifies, and continues by range.
"""

from __future__ import annotations

import io
from urllib.parse import urlsplit

from shardgate.client import PROGRESS_SECONDS
from shardgate.download import CHUNK, ObjectReader
from shardgate.errors import MissingExtra
from shardgate.transport import Transport


def install_opener(token: str | None = None) -> None:
    """Make webdataset open http and https URLs through `shardgate`, in this process and its forked workers.

    Args:
        token: Bearer token to send along.

    Raises:
        MissingExtra: webdataset is not installed.
    """
    try:
        from webdataset.gopen import gopen_schemes  # noqa: PLC0415 - importing shardgate must not import webdataset
    except ImportError as error:
        raise MissingExtra("webdataset", "viz") from error

    def opener(url: str, mode: str = "rb", bufsize: int = CHUNK) -> io.BufferedReader:
        if not mode.startswith("r"):
            raise ValueError(f"{url} can only be read, and the mode is {mode!r}")
        return open_url(url, token=token, bufsize=bufsize)

    gopen_schemes.update(http=opener, https=opener)


def open_url(url: str, *, token: str | None = None, bufsize: int = CHUNK) -> io.BufferedReader:
    """Open any http URL as a buffered stream that verifies its end and survives broken connections."""
    parts = urlsplit(url)
    transport = Transport(f"{parts.scheme}://{parts.netloc}", token, PROGRESS_SECONDS)
    return io.BufferedReader(ObjectReader(transport, url, url), max(bufsize, CHUNK))
