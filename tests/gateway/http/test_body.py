"""Bodies on the wire: whole, or broken so that every reader notices.

A server with the real send path serves bodies that the test makes up; curl, raw sockets and webdataset read them.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import socket
import sys
import tarfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from aiohttp import web
from readers import curl, send_raw

from shardgate_gateway.cache.reader import FileSpan, Reading
from shardgate_gateway.errors import UpstreamStalled
from shardgate_gateway.http.body import send_now
from shardgate_gateway.http.call import Call
from shardgate_gateway.http.problems import problem
from shardgate_gateway.http.reply import send_reading
from shardgate_gateway.stores.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    Parts = AsyncGenerator[FileSpan | bytes | memoryview, None]

MIB = 1 << 20
BLOB = os.urandom(3 * MIB + 17)


def on_uvloop(test: Callable[..., Any]) -> Callable[..., None]:
    """The loop that the gateway runs on, whose transports differ from asyncio's."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*arguments, **fixtures))

    return run


class Made(Reading):
    """A reading whose bytes come from a function."""

    state = "miss"
    meta = ObjectMeta("made.tar", None, "v1")

    def __init__(self, make: Callable[[], Parts], size: int | None) -> None:
        self.meta = ObjectMeta("made.tar", size, "v1")
        self._make = make

    def parts(self, start: int = 0, end: int | None = None) -> Parts:
        assert (start, end) in {(0, None), (0, self.meta.size)}
        return self._make()


@dataclass
class Lab:
    """A server whose every GET gets the same body."""

    make: Callable[[], Parts]
    size: int | None
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/x"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call.of(request, draining=False)
        if call.path == "/small":
            return await send_now(call, HTTPStatus.OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"small")
        try:
            return await send_reading(call, Made(self.make, self.size))
        except Exception as error:  # noqa: BLE001
            return problem(error, call.id)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(make: Callable[[], Parts], size: int | None) -> AsyncIterator[Lab]:
    lab = Lab(make, size)
    server = web.Server(lab.handle, handler_cancellation=True)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    lab.port = listening.sockets[0].getsockname()[1]
    try:
        yield lab
    finally:
        await server.shutdown(0.1)
        listening.close()
        await listening.wait_closed()


@pytest.fixture
def span(tmp_path: Path) -> Any:
    path = tmp_path / "blob"
    path.write_bytes(b"head" + BLOB + b"tail")
    with path.open("rb") as file:
        yield FileSpan(file.fileno(), 4, len(BLOB))


def pieces(*parts: FileSpan | bytes | memoryview, then: Exception | None = None) -> Callable[[], Parts]:
    async def make() -> Parts:
        for part in parts:
            yield part
        if then is not None:
            raise then

    return make


@pytest.mark.parametrize("known", [True, False])
@on_uvloop
async def test_files_bytes_and_views_arrive_in_order_and_whole(span: FileSpan, known: bool) -> None:
    parts = (b"first", span, memoryview(b"xsecondx")[1:-1], b"", FileSpan(span.fd, 4, 10), b"last")
    expected = b"first" + BLOB + b"second" + BLOB[:10] + b"last"
    async with serving(pieces(*parts), len(expected) if known else None) as lab:
        answer = await asyncio.to_thread(curl, lab.endpoint)
    assert (answer.exit, answer.status) == (0, 200)
    assert answer.body == expected
    assert ("content-length" in answer.headers) == known


@pytest.mark.parametrize("known", [True, False])
@on_uvloop
async def test_a_failure_in_the_middle_never_looks_like_an_end(span: FileSpan, known: bool) -> None:
    async with serving(pieces(span, then=UpstreamStalled("gone")), len(BLOB) + 1 if known else None) as lab:
        answer = await asyncio.to_thread(curl, lab.endpoint)
    assert answer.status == 200
    assert answer.exit != 0


@on_uvloop
async def test_a_failure_before_the_first_byte_has_a_status() -> None:
    async with serving(pieces(then=UpstreamStalled("gone")), 100) as lab:
        answer = await asyncio.to_thread(curl, lab.endpoint)
    assert (answer.exit, answer.status) == (0, 504)


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1])
@on_uvloop
async def test_a_body_of_another_length_than_promised_breaks_the_connection(span: FileSpan, size: int) -> None:
    async with serving(pieces(b"", span), size) as lab:
        answer = await asyncio.to_thread(curl, lab.endpoint)
    assert answer.exit != 0


@on_uvloop
async def test_an_unexpected_exception_in_the_middle_breaks_the_connection_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(pieces(b"some", then=ZeroDivisionError("a bug")), None) as lab:
        answer = await asyncio.to_thread(curl, lab.endpoint)
    assert answer.exit != 0
    assert "a bug" in caplog.text


def shard(samples: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(samples):
            member = tarfile.TarInfo(f"{index:04d}.txt")
            member.size = 700
            tar.addfile(member, io.BytesIO(b"x" * 700))
    return out.getvalue()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("cut", [3 * 1536, 3 * 1536 + 600])
@on_uvloop
async def test_webdataset_raises_on_a_tar_that_is_cut_also_between_two_members(known: bool, cut: int) -> None:
    whole = shard(6)
    with tarfile.open(fileobj=io.BytesIO(whole[: 3 * 1536]), mode="r|*") as a_file_can_not_tell:
        assert len(list(a_file_can_not_tell)) == 3
    make = pieces(whole[:cut], then=UpstreamStalled("gone"))
    async with serving(make, len(whole) if known else None) as lab:
        assert await read_by_webdataset(lab.endpoint) == "raised"
    async with serving(pieces(whole), len(whole) if known else None) as lab:
        assert await read_by_webdataset(lab.endpoint) == "6 samples"


async def read_by_webdataset(url: str) -> str:
    """In a process of its own, through the client's opener: webdataset's own can lose curl's error (decision 10)."""
    program = f"""
import shardgate, webdataset
shardgate.install_opener()
try:
    print(len(list(webdataset.WebDataset({url!r}, shardshuffle=False))), "samples")
except shardgate.ShardgateError:
    print("raised")
"""
    reader = await asyncio.create_subprocess_exec(
        *[sys.executable, "-W", "ignore", "-c", program], stdout=asyncio.subprocess.PIPE
    )
    said, _ = await reader.communicate()
    return said.decode().strip()


@on_uvloop
async def test_a_buffer_that_is_used_again_is_sent_as_it_was(span: FileSpan) -> None:
    """Like the ring of a worker: overwritten as soon as the next part is asked for, under a slow reader."""
    rounds, buffer = 40, bytearray(MIB // 2)

    async def make() -> Parts:
        for index in range(rounds):
            buffer[:] = bytes([index]) * len(buffer)
            yield memoryview(buffer)
            buffer[:] = b"\xff" * len(buffer)

    async with serving(make, None) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1 << 12)
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
            await asyncio.sleep(0.002)
        writer.close()
        await writer.wait_closed()
    assert body == b"".join(bytes([index]) * len(buffer) for index in range(rounds))


@on_uvloop
async def test_a_slow_reader_holds_the_source_back_instead_of_filling_memory() -> None:
    given = 0

    async def make() -> Parts:
        nonlocal given
        for _ in range(400):
            given += 1
            yield bytes(MIB)

    async with serving(make, 400 * MIB) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1 << 12)
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while before != given:
            before = given
            await asyncio.sleep(0.2)
        assert given < 40  # what fits into the sockets of both ends
        writer.transport.abort()


@on_uvloop
async def test_a_reader_that_leaves_ends_the_work_for_it() -> None:
    closed = asyncio.Event()

    async def make() -> Parts:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with serving(make, None) as lab:
        _, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.wait_for(closed.wait(), 10)


@on_uvloop
async def test_a_reader_that_leaves_while_the_source_is_silent_ends_the_work_too() -> None:
    closed = asyncio.Event()

    async def make() -> Parts:
        try:
            yield b"a beginning"
            await asyncio.sleep(3600)
        finally:
            closed.set()

    async with serving(make, None) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"a beginning")
        writer.close()
        await asyncio.wait_for(closed.wait(), 10)


@on_uvloop
async def test_answers_to_pipelined_requests_come_in_their_order(span: FileSpan) -> None:
    requests = (b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n" * 20 + b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n") * 2
    last = b"GET /small HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    async with serving(pieces(span), len(BLOB)) as lab:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1 << 12)
        writer.write(requests + last)
        bodies = []
        for _ in range(43):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            bodies.append(await reader.readexactly(size))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert bodies == ([b"small"] * 20 + [BLOB]) * 2 + [b"small"]


@on_uvloop
async def test_http_1_0_gets_no_body_whose_end_it_could_not_tell(span: FileSpan) -> None:
    request = b"GET /x HTTP/1.0\r\nHost: h\r\n\r\n"
    async with serving(pieces(span), None) as lab:
        answer = await asyncio.to_thread(send_raw, lab.endpoint, request)
    assert answer.status == 505
    async with serving(pieces(span), len(BLOB)) as lab:
        answer = await asyncio.to_thread(send_raw, lab.endpoint, request)
    assert (answer.status, answer.body) == (200, BLOB)


@on_uvloop
async def test_a_cached_file_that_shrank_breaks_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 1000)
    with path.open("rb") as file:
        async with serving(pieces(FileSpan(file.fileno(), 0, 2000)), 2000) as lab:
            answer = await asyncio.to_thread(curl, lab.endpoint)
    assert answer.exit != 0


@on_uvloop
async def test_a_file_that_sendfile_refuses_is_copied(span: FileSpan, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    async with serving(pieces(span), len(BLOB)) as lab:
        answer = await asyncio.to_thread(curl, lab.endpoint)
    assert (answer.exit, answer.body) == (0, BLOB)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@on_uvloop
async def test_no_descriptor_is_left_behind(span: FileSpan) -> None:
    async with serving(pieces(span, then=UpstreamStalled("gone")), len(BLOB) + 1) as lab:
        await asyncio.to_thread(curl, lab.endpoint)
        before = open_descriptors()
        for _ in range(5):
            await asyncio.to_thread(curl, lab.endpoint)
            with socket.create_connection(("127.0.0.1", lab.port)) as client:
                client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert open_descriptors() <= before
