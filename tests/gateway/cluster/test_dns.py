"""Members behind a name: asked who they are, and forgotten when the name or they themselves no longer answer."""

from __future__ import annotations

import asyncio

import pytest
from gateway_process import GatewayProcess
from raw_answers import answering

from servers import free_port
from shardgate_gateway.cluster import connection
from shardgate_gateway.cluster.connection import PeerClient
from shardgate_gateway.cluster.dns import DnsMembership

REFRESH_SECONDS = 0.05


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (it looks on its own time, too)
            await asyncio.sleep(REFRESH_SECONDS)


async def test_who_answers_behind_the_name_is_a_member_by_its_own_name(tmp_path):
    gateway = GatewayProcess(tmp_path, {"file://f": tmp_path}, settings={"cluster.name": "b"})
    client, changes = PeerClient(1), []
    membership = DnsMembership(f"http://localhost:{gateway.port}", client, REFRESH_SECONDS)
    membership.on_change(lambda: changes.append(dict(membership.urls)))
    try:
        async with membership:
            assert membership.urls == {}
            gateway.start()
            await until(lambda: membership.urls == {"b": gateway.endpoint})
            gateway.stop()
            await until(lambda: membership.urls == {})
    finally:
        gateway.close()
        client.close()
    assert changes == [{"b": gateway.endpoint}, {}]


async def test_members_stay_while_their_name_can_not_be_resolved(caplog):
    client = PeerClient(1)
    membership = DnsMembership(f"http://no-such-name.invalid:{free_port()}", client, REFRESH_SECONDS)
    membership.urls = {"b": "http://127.0.0.1:1"}
    async with membership:
        assert membership.urls == {"b": "http://127.0.0.1:1"}
    assert "can't resolve no-such-name.invalid" in caplog.text


async def test_a_member_that_is_too_busy_to_answer_stays_one(monkeypatch):
    monkeypatch.setattr(connection, "SHORT_SECONDS", 0.05)
    good = b'{"member": "b"}'
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(good), good)
    client, changes = PeerClient(1), []
    with answering(answer, b"", hang=True) as url:
        membership = DnsMembership(url, client, REFRESH_SECONDS)
        membership.on_change(lambda: changes.append(dict(membership.urls)))
        async with membership:
            assert membership.urls == {"b": url}
            for _ in range(3):
                await membership._look()
            assert membership.urls == {"b": url}
    assert changes == [{"b": url}]
    client.close()


def answer(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


READY = answer("200 OK", b'{"member": "b"}')
BUSY = answer("503 Service Unavailable", b'{"code": "busy"}')


@pytest.mark.parametrize(
    "missed", [b"", BUSY, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", answer("200 OK", b"{}")]
)
async def test_a_member_that_misses_a_look_or_two_stays_one_and_its_objects_where_they_are(missed):
    client, changes = PeerClient(1), []
    with answering(READY, missed, missed, READY, missed, missed, READY) as url:
        membership = DnsMembership(url, client, 3600)
        membership.on_change(lambda: changes.append(dict(membership.urls)))
        async with membership:
            for _ in range(7):
                await membership._look()
    client.close()
    assert changes == [{"b": url}]


async def test_a_member_that_refuses_one_connection_stays_one():
    client, port = PeerClient(1), free_port()
    membership = DnsMembership(f"http://127.0.0.1:{port}", client, 3600)
    url = f"http://127.0.0.1:{port}"
    membership._names = {url: "b"}
    await membership._look()
    assert membership.urls == {"b": url}
    for _ in range(2):
        await membership._look()
    assert membership.urls == {}
    client.close()


async def test_a_member_that_shuts_down_leaves_at_once():
    client = PeerClient(1)
    with answering(READY, answer("503 Service Unavailable", b'{"code": "draining"}')) as url:
        async with DnsMembership(url, client, 3600) as membership:
            assert membership.urls == {"b": url}
            await membership._look()
            assert membership.urls == {}
    client.close()


@pytest.mark.parametrize("body", [b"[]", b'"b"', b"7", b'{"member": 7}', b"{", b"\xff", b"[" * 100_000])
async def test_who_answers_with_anything_else_is_no_member_and_ends_nothing(body):
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    good = b'{"member": "b"}'
    better = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(good), good)
    client = PeerClient(1)
    with answering(head + body, better) as url:
        membership = DnsMembership(url, client, REFRESH_SECONDS)
        async with membership:
            assert membership.urls == {}
            await until(lambda: membership.urls == {"b": url})
    client.close()
