"""A GET or HEAD of an object, answered by the gateway that it belongs to: here, by redirect, or by proxy.

A client that said it reaches the owner by itself is redirected, and its bytes take one hop. All others are proxied,
because an address that a pod reaches may mean nothing to a laptop.

A gateway that can't be asked, or is lost before its answer began, is skipped for the next in rank, and at last this
gateway answers by itself. Once the head has gone out, a body that breaks off at the other gateway is broken off here:
the reader sees an aborted connection, never an end.
"""

from __future__ import annotations

import random
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from shardgate import wire
from shardgate.text import safe_line
from shardgate_gateway import metrics
from shardgate_gateway.cache.peer import ONLY_CACHED
from shardgate_gateway.cluster.connection import RECEIVE_BYTES
from shardgate_gateway.errors import NotFound, UpstreamUnavailable
from shardgate_gateway.http.body import Sent, send_now, send_parts
from shardgate_gateway.http.passing_on import (
    NOT_PASSED_BACK,
    copies_in,
    copies_line,
    headers_for_peer,
    is_from_peer,
    target_of,
)
from shardgate_gateway.http.reply import gaps_line
from shardgate_gateway.http.request import small_number
from shardgate_gateway.objects.ownership import Here

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.cluster.calls import PeerCalls
    from shardgate_gateway.cluster.connection import Head
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.objects.buckets import Bucket
    from shardgate_gateway.objects.ownership import There

    Answer = Callable[[Call, Source], Awaitable[web.StreamResponse]]


async def read_at_owner(
    kernel: Kernel, call: Call, bucket: Bucket, key: str, answer: Answer, *, copied: bool
) -> web.StreamResponse:
    """Have a read answered where it belongs.

    Args:
        kernel: The gateway.
        call: The request.
        bucket: Of the object.
        key: Its name.
        answer: Answers here, from the given source.
        copied: It is something of which other gateways keep copies: the whole raw object.
    """
    ownership = kernel.objects.ownership
    calls = ownership.calls
    if calls is None:
        return await answer(call, bucket.source(key))
    if is_from_peer(calls, call):
        here = _for_peer(kernel, calls, call, bucket, key, copied=copied)
        return await answer(replace(call, extra_headers=copies_line(here.copies)), here.source)
    place = ownership.place(bucket, key, copied=copied)
    if isinstance(place, Here):
        return await answer(call, place.source)
    return await _elsewhere(calls, call, place) or await answer(call, bucket.source(key))


def _for_peer(kernel: Kernel, calls: PeerCalls, call: Call, bucket: Bucket, key: str, *, copied: bool) -> Here:
    """Where the object comes from for another gateway, which is answered here whatever the rank.

    Raises:
        UpstreamUnavailable: It means to ask another one. An address may be that of another gateway by now, and which
            gateway may wait for which goes by names (`cache/peer.py`).
        NotFound: It wants what is here already, or on its way here, and there is nothing.
    """
    me = calls.peers.me.name
    meant = call.headers.get(wire.MEMBER_HEADER, me)
    if meant != me:
        raise UpstreamUnavailable(f"gateway {safe_line(meant, 80)} was asked, and this is {me}")
    if call.headers.get(hdrs.CACHE_CONTROL) == ONLY_CACHED:
        source = bucket.kept(key)
        if not kernel.cache.holds(source):
            raise NotFound(f"{source.label} is not in the cache of this gateway")
        return Here(source)
    is_hot = copied and copies_in(call.headers) > 1
    return kernel.objects.ownership.place_for_peer(bucket, key, copied=copied, is_hot=is_hot)


async def _elsewhere(calls: PeerCalls, call: Call, place: There) -> web.StreamResponse | None:
    """The answer of another gateway; None where it is this one's turn before any of the others can be asked."""
    peers = calls.peers
    first = random.choice(place.ranked[: place.copies])  # noqa: S311 (spreads load)
    if first.name in _reached(call):
        peers.popularity.heard(place.name, max(place.copies, peers.popularity.count(place.name)))
        return _redirect(call, first)
    for member in (first, *(other for other in place.ranked if other != first)):
        if member == peers.me:
            break
        try:
            return await _proxy(calls, call, member, place)
        except UpstreamUnavailable as error:
            metrics.FORWARDED.labels("skip").inc()
            peers.suspect(member, error)
    return None


async def _proxy(calls: PeerCalls, call: Call, member: Member, place: There) -> Sent:
    """Pass the request on, and the answer back.

    Raises:
        UpstreamUnavailable: There was none, and nothing was sent to the client.
    """
    version = call.request.version
    copies = [(wire.HOT_HEADER, str(place.copies))] if place.copies > 1 else []
    answer = await calls.peers.client.ask(
        member,
        call.request.method,
        target_of(call),
        [*headers_for_peer(calls, call), *copies],
        version=f"{version.major}.{version.minor}",
    )
    try:
        if copies_now := copies_in(answer.head.headers):
            calls.peers.popularity.heard(place.name, copies_now)
        length = answer.length
        small = await answer.read() if length is not None and length <= RECEIVE_BYTES else None
        status, top = HTTPStatus(answer.head.status), _head(call, member, answer.head)
        metrics.FORWARDED.labels("proxy").inc()
        metrics.SENT_BYTES.labels(call.bucket, "proxy").inc(length or 0)
        if small is not None:
            return await send_now(call, status, top, small)
        return await send_parts(
            *(call, status, top, answer.parts()),
            length=length,
            trailers=lambda: gaps_line(small_number(answer.trailers.get(wire.GAPS_HEADER, "")) or 0),
        )
    finally:
        answer.close()


def _reached(call: Call) -> frozenset[str]:
    """Gateways that the client can be redirected to."""
    return frozenset(name.strip() for name in call.headers.get(wire.REACH_HEADER, "").split(","))


def _redirect(call: Call, member: Member) -> web.Response:
    metrics.FORWARDED.labels("redirect").inc()
    headers = {hdrs.LOCATION: member.url + target_of(call), wire.MEMBER_HEADER: member.name}
    return web.Response(status=HTTPStatus.TEMPORARY_REDIRECT, headers=headers)


def _head(call: Call, member: Member, head: Head) -> bytes:
    """The answer's head as it came, with what belongs to our own connection."""
    lines = [f"HTTP/1.1 {head.status} {HTTPStatus(head.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in head.headers.items() if name.lower() not in NOT_PASSED_BACK]
    lines += [f"{wire.MEMBER_HEADER}: {member.name}", f"Connection: {'close' if call.closing else 'keep-alive'}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
