"""The readers of the benchmarks throw bytes away, but they must never take a cut body for a whole one."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from benchmarks.loads import SlowReaders, drain_many, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answering(response: bytes, *, connections: int = 1, requests: int = 1) -> Iterator[str]:
    """A server that gives the same response to every request and then closes."""

    def serve(listener: socket.socket) -> None:
        for _ in range(connections):
            with listener.accept()[0] as connection:
                for _ in range(requests):
                    connection.recv(4096)
                    connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/object"
        thread.join()


def test_a_whole_body_is_counted() -> None:
    with answering(HEAD + b"Content-Length: 300000\r\n\r\n" + bytes(300000)) as url:
        got = fetch(url, mark=200000)
    assert got.size == 300000
    assert 0 < got.first_byte <= got.mark <= got.seconds


def test_chunks_are_counted_without_their_framing() -> None:
    body = b"5\r\nhello\r\n" + b"1e240\r\n" + bytes(0x1E240) + b"\r\n0\r\n\r\n"
    with answering(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body) as url:
        assert fetch(url).size == 5 + 0x1E240


@pytest.mark.parametrize(
    "response",
    [
        HEAD + b"Content-Length: 300000\r\n\r\n" + bytes(299999),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        HEAD + b"Content-Le",
    ],
)
def test_a_cut_body_is_an_error(response: bytes) -> None:
    with answering(response) as url, pytest.raises(ConnectionError):
        fetch(url)


def test_an_error_status_is_an_error_that_shows_the_answer() -> None:
    with (
        answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno such") as url,
        pytest.raises(RuntimeError, match="404"),
    ):
        fetch(url)


def test_many_gets_share_a_few_connections() -> None:
    with answering(HEAD + b"Content-Length: 10\r\n\r\n" + bytes(10), connections=2, requests=3) as url:
        assert drain_many(url, gets=6, connections=2) == 60


def test_a_slow_reader_takes_what_it_says_and_leaves_when_the_body_ends() -> None:
    with (
        answering(HEAD + b"Content-Length: 100\r\n\r\n" + bytes(100)) as url,
        SlowReaders([url], take=1000, pause=0.01) as readers,
    ):
        readers.wait_until_gone(seconds=10)
