"""A server that answers with bytes that a test decides, and closes: for answers that no HTTP library would send."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"x" * 3000
_CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def _answer(*fields: str, version: str = "1.1", body: bytes = BODY) -> bytes:
    head = [f"HTTP/{version} 200 OK", 'ETag: "v1"', "Connection: close", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


ENDLESS = {
    "HTTP/1.0 without a length": _answer(version="1.0"),
    "HTTP/1.1 without a length": _answer(),
    "xchunked": _answer("Transfer-Encoding: xchunked"),
    "identity": _answer("Transfer-Encoding: identity"),
    "chunked, gzip": _answer("Transfer-Encoding: chunked, gzip"),
    "gzip, chunked": _answer("Transfer-Encoding: gzip, chunked", body=_CHUNKED),
    "two codings": _answer("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", body=_CHUNKED),
    "a length and chunks": _answer("Content-Length: 10", "Transfer-Encoding: chunked", body=_CHUNKED),
    "two lengths": _answer("Content-Length: 10", "Content-Length: 3000"),
    "one length twice": _answer("Content-Length: 3000", "Content-Length: 3000"),
    "a list of lengths": _answer("Content-Length: 3000, 3000"),
    "a negative length": _answer("Content-Length: -1"),
    "a length with a sign": _answer("Content-Length: +3000"),
    "a length of many digits": _answer(f"Content-Length: {'9' * 5000}"),
    "no number": _answer("Content-Length: many"),
}
"""Answers whose body has no end that can be believed."""
ENDING = {
    "a length": _answer("Content-Length: 3000"),
    "a length by HTTP/1.0": _answer("Content-Length: 3000", version="1.0"),
    "chunks": _answer("Transfer-Encoding: Chunked", body=_CHUNKED),
}

_PADDED = _answer("Transfer-Encoding: chunked", body=b"%08x\r\n%s\r\n00000000\r\n\r\n" % (2000, BODY[:2000]))
CUT = {
    f"cut {where}": _PADDED[: -len(cut)] + more
    for where, cut, more in (
        ("before the next chunk", b"00000000\r\n\r\n", b""),
        ("in the size of a chunk", b"0000\r\n\r\n", b""),
        ("behind the digits of a size", b"00000\r\n\r\n", b""),
        ("before the line behind the last chunk", b"\r\n", b""),
        ("between two trailers", b"\r\n", b"X-One: 1\r\n"),
        ("in a chunk", b"00000000\r\n\r\n", b"000003e8\r\nxxx"),
    )
}
"""Chunked answers, whose sizes are padded with zeros, that were cut."""


@contextmanager
def answering(*answers: bytes, hang: bool = False) -> Iterator[str]:
    """The URL of a server that gives these answers, one a connection; the last one again and again.

    With `hang` a connection stays open behind its answer, which may be empty.
    """
    left = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # shut down
                    return
                answer = left.pop(0) if len(left) > 1 else left[0]
                threading.Thread(target=_serve_one, args=(connection, answer, hang), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve_one(connection: socket.socket, answer: bytes, hang: bool) -> None:
    with connection:
        connection.settimeout(30)
        try:
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (data := connection.recv(65536)):
                    return
                asked += data
            head = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            connection.sendall(head if asked.startswith(b"HEAD ") else answer)
            if not hang:
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # or the kernel would reset what the reader has not taken yet
                pass
        except OSError:  # the reader left
            pass
