"""Chunked answers whose lines have to be whole.

`http.client`, and so urllib3, takes a line that the end of the connection cut for a line. Where a server pads the sizes
of its chunks (`00001000`), a cut in the middle of one leaves `0000`, and that is how the last chunk begins: a body that
was cut would look whole. And behind the last chunk, where the trailers stand, it takes the end of the connection for
their end: what they tell of the body would be lost.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any

from shardgate import wire

if TYPE_CHECKING:
    from io import BufferedIOBase

MAX_LINE = 65_536
MAX_TRAILERS = 100
MAX_DIGITS = 12


class WholeLines:
    """A file that raises IncompleteRead in place of a line without its end, and of no line."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.read, self.read1, self.readinto = file.read, file.read1, file.readinto

    def readline(self, limit: int = -1) -> bytes:
        line = self._file.readline(limit)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class WholeResponse(http.client.HTTPResponse):
    """An answer whose chunks are read by whole lines: the `response_class` of a connection.

    Attributes:
        trailers: Headers behind the last chunk, by their names in lower case.
    """

    def begin(self) -> None:
        self.trailers: dict[str, str] = {}
        super().begin()
        if self.chunked and self.fp is not None:
            self.fp = WholeLines(self.fp)  # type: ignore[assignment]

    def _read_and_discard_trailer(self) -> None:
        """As `http.client` does it, but kept."""
        assert self.fp is not None
        while (line := self.fp.readline(MAX_LINE + 1)) not in (b"\r\n", b"\n"):
            if len(line) > MAX_LINE or len(self.trailers) >= MAX_TRAILERS:
                raise http.client.LineTooLong("trailer")
            name, _, value = line.decode("latin-1").partition(":")
            self.trailers[name.strip().lower()] = value.strip()


def gaps_of(response: http.client.HTTPResponse) -> int:
    """Samples that a result lacks for a cause that may pass, once its body was read to the end."""
    trailers = response.trailers if isinstance(response, WholeResponse) else {}
    text = trailers.get(wire.GAPS_HEADER.lower()) or str(response.headers.get(wire.GAPS_HEADER, ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else 0
