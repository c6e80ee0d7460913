"""HTTP to another gateway, against servers that do not keep to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_answers import BODY, CUT, ENDING, ENDLESS

from shardgate_gateway.cluster import connection as module
from shardgate_gateway.cluster.connection import (
    IDLE_CONNECTIONS,
    LOOKS,
    Incoming,
    NotReached,
    PeerClient,
    Silent,
    json_object,
)
from shardgate_gateway.cluster.membership import Member
from shardgate_gateway.errors import UpstreamUnavailable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def member(*answers, end="close"):
    """A server that gives these answers, one a connection, or all on one with `end="keep"`; `asked` counts."""
    left = list(answers)
    asked = []

    async def serve(reader, writer):
        try:
            while left:
                await reader.readuntil(b"\r\n\r\n")
                asked.append(1)
                writer.write(left.pop(0))
                await writer.drain()
                if end == "close":
                    break
                if end == "stall":
                    await asyncio.sleep(30)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = PeerClient(1)
    try:
        yield client, Member("m", f"http://{host}:{port}"), asked
    finally:
        client.close()
        server.close()


async def read(client, whom, method="GET"):
    answer = await client.ask(whom, method, "/", ())
    try:
        return answer.head.status, await answer.read()
    finally:
        answer.close()


async def test_an_answer_is_read_to_its_end_and_the_connection_used_again():
    async with member(OK, OK, end="keep") as (client, whom, asked):
        assert [await read(client, whom) for _ in range(2)] == [(200, b"hello")] * 2
        assert len(asked) == 2


async def test_a_chunked_answer_ends_with_its_last_chunk():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n, x\r\n0\r\n\r\n"
    async with member(chunked, OK, end="keep") as (client, whom, _):
        assert await read(client, whom) == (200, b"hello, x")
        assert await read(client, whom) == (200, b"hello")


async def test_what_follows_the_last_chunk_is_not_lost():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Shardgate-Gaps: 2\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with member(chunked, plain, OK, end="keep") as (client, whom, _):
        for gaps in ("2", None, None):
            answer = await client.ask(whom, "GET", "/", ())
            assert await answer.read() == b"hello"
            assert answer.trailers.get("x-shardgate-gaps") == gaps
            answer.close()


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"",
    ],
    ids=["short", "no last chunk", "half a head", "not HTTP", "nothing"],
)
async def test_whatever_is_not_whole_raises(cut):
    async with member(cut) as (client, whom, _):
        with pytest.raises(UpstreamUnavailable, match="gateway m at"):
            await read(client, whom)


async def test_a_large_body_is_left_to_whoever_moves_it():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
    async with member(head + bytes(100_000)) as (client, whom, _):
        answer = await client.ask(whom, "GET", "/", ())
        parts = [part async for part in answer.parts()]
        *first, last = parts
        assert isinstance(last, Incoming)
        assert sum(map(len, first)) + last.length == 10_000_000
        answer.close(keep=False)


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_without_a_word():
    async with member(OK, OK) as (client, whom, asked):
        assert await read(client, whom) == (200, b"hello")
        await asyncio.sleep(0.05)
        assert await read(client, whom) == (200, b"hello")
        assert len(asked) == 2


async def test_nobody_there_is_told_apart_from_somebody_who_was_lost():
    async with member() as (_, whom, _):
        pass
    with pytest.raises(NotReached, match="can't be reached"):
        await read(PeerClient(1), whom)


async def test_a_peer_that_hangs_is_lost_and_short_questions_end_sooner(monkeypatch):
    monkeypatch.setattr(module, "SHORT_SECONDS", 0.05)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    async with member(*[OK[:-2]] * 9, end="stall") as (client, whom, asked):
        with pytest.raises(UpstreamUnavailable, match="it hangs") as caught:
            await read(client, whom)
        assert not isinstance(caught.value, Silent), "it left question after question unanswered"
        assert len(asked) == 1 + LOOKS
        with pytest.raises(Silent, match="did not answer within"):
            await client.tell(whom, "GET", "/", ())


@pytest.mark.parametrize("begun", [b"", OK[:20], OK[:-3]], ids=["nothing", "half a head", "half a body"])
async def test_a_peer_that_lives_is_waited_for_however_long_its_answer_takes(monkeypatch, begun):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    looked = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /healthz"):
            looked.append(head)
            writer.write(OK)
        else:
            writer.write(begun)
            while len(looked) <= 2 * LOOKS:  # noqa: ASYNC110 (the count is what it waits for)
                await asyncio.sleep(0.005)
            writer.write(OK[len(begun) :])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        client = PeerClient(1)
        assert await read(client, Member("m", f"http://{host}:{port}")) == (200, b"hello")
        client.close()


async def test_an_answer_that_is_closed_twice_gives_its_connection_to_one_other():
    async with member(OK, OK, OK, end="keep") as (client, whom, _):
        answer = await client.ask(whom, "GET", "/", ())
        assert await answer.read() == b"hello"
        answer.close()
        answer.close()
        others = [await client.ask(whom, "GET", "/", ()) for _ in range(2)]
        assert others[0].connection is not others[1].connection
        for other in others:
            other.close()


async def test_idle_connections_are_bounded():
    count = IDLE_CONNECTIONS + 5
    async with member(*[OK] * count, end="keep") as (client, whom, _):
        answers = [await client.ask(whom, "GET", "/", ()) for _ in range(count)]
        for answer in answers:
            await answer.read()
            answer.close()
        assert sum(map(len, client._idle.values())) == IDLE_CONNECTIONS


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
async def test_a_body_that_only_a_close_ends_is_not_whole(answer):
    async with member(answer) as (client, whom, _):
        with pytest.raises(UpstreamUnavailable, match="broke off"):
            await read(client, whom)


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
async def test_a_body_whose_end_is_told_is_read(answer):
    async with member(answer) as (client, whom, _):
        assert await read(client, whom) == (200, BODY)


@given(st.binary(max_size=400))
async def test_a_member_that_answers_anything_at_all_is_read_or_lost(answer):
    async with member(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + answer) as (client, whom, _):
        with suppress(UpstreamUnavailable):
            await read(client, whom)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 \xb2\xb3\xb2 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["status", "digits", "short status", "headers", "negative", "sign", "long chunk", "huge chunk"],
)
async def test_what_is_no_http_loses_the_member_and_is_no_bug(answer):
    async with member(answer) as (client, whom, _):
        with pytest.raises(UpstreamUnavailable, match="broke off"):
            await read(client, whom)


@given(st.binary(max_size=200))
def test_no_answer_is_too_odd_to_be_judged(body):
    found = json_object(body)
    assert found is None or isinstance(found, dict)


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
async def test_a_chunked_body_that_was_cut_anywhere_is_not_whole(answer):
    async with member(answer) as (client, whom, _):
        with pytest.raises(UpstreamUnavailable, match="broke off"):
            await read(client, whom)
