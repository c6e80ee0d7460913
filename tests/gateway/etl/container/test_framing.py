"""A body that only a close ends is no result of a container, and no input for one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
import pytest
from raw_answers import BODY, CUT, ENDING, ENDLESS, answering

from shardgate import wire
from shardgate_gateway.errors import TransformError, WorkerLost
from shardgate_gateway.etl.container.client import open_session
from shardgate_gateway.etl.container.connection import ContainerConnection
from shardgate_gateway.etl.container.source import InputFailed, open_source
from shardgate_gateway.etl.runner import Chunk


def job(url: str) -> wire.Job:
    return wire.Job("r", "t-1", "gcp://b", "a.tar", "v1", url=url)


async def result(url: str) -> bytes:
    container = wire.Container(method="get")
    async with open_session() as session:
        address = url.removeprefix("http://")
        connection = ContainerConnection(
            session, address, container, job("http://gateway/a"), None, 10, lambda _: None, {}
        )
        try:
            data = b""
            while isinstance(part := await connection.receive(), Chunk):
                data += bytes(part.data)
            assert isinstance(part, wire.End)
            return data
        finally:
            connection.close()


async def source(url: str) -> bytes:
    async with open_session() as session:
        body = await open_source(session, job(url), None)
        try:
            return b"".join([data async for data in body.chunks()])
        finally:
            body.close()


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
async def test_a_result_that_only_a_close_ends_is_never_whole(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises((TransformError, WorkerLost)):
        await result(url)


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
async def test_an_input_that_only_a_close_ends_is_never_whole(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises((InputFailed, OSError, aiohttp.ClientError)):
        await source(url)


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
async def test_a_body_whose_end_is_told_is_read(answer: bytes) -> None:
    with answering(answer) as url:
        assert await result(url) == await source(url) == BODY


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
async def test_a_chunked_body_that_was_cut_anywhere_is_not_whole(answer: bytes) -> None:
    with answering(answer) as url:
        with pytest.raises(WorkerLost):
            await result(url)
        with pytest.raises(aiohttp.ClientError):
            await source(url)


async def test_an_input_that_breaks_while_the_container_answers_is_no_end_of_its_answer() -> None:
    """This container takes silence for the end of its input, and ends its answer then."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await reader.read(65536):
                    pass
        writer.write(b"3\r\nend\r\n0\r\n\r\n")
        writer.close()

    answered = asyncio.Event()

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + BODY)
        await answered.wait()
        writer.close()

    async with (
        await asyncio.start_server(talk, "127.0.0.1", 0) as container,
        await asyncio.start_server(break_off, "127.0.0.1", 0) as origin,
        open_session() as session,
    ):
        (at, url) = ("{}:{}".format(*server.sockets[0].getsockname()[:2]) for server in (container, origin))
        work = job(f"http://{url}/a")
        connection = ContainerConnection(session, at, wire.Container(), work, None, 30, lambda _: None, {})
        try:
            while isinstance(part := await connection.receive(), Chunk):
                answered.set()
        finally:
            connection.close()
    assert isinstance(part, wire.Failure)
    assert part.code == "input_unavailable"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "identity, br", "zstd"])
async def test_an_encoded_answer_is_never_the_result(coding: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\nContent-Encoding: {coding}\r\n\r\n"
    with answering(head.encode() + BODY) as url, pytest.raises(TransformError, match="encoded as"):
        await result(url)
