"""What of a request is passed on to another gateway, and what of its answer is passed back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import hdrs

from shardgate import wire
from shardgate_gateway.http.request import small_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.cluster.calls import PeerCalls
    from shardgate_gateway.http.call import Call

NOT_PASSED_ON = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION,
        hdrs.HOST,
        hdrs.EXPECT,
        hdrs.TRANSFER_ENCODING,
        hdrs.CONTENT_LENGTH,
        hdrs.UPGRADE,
        hdrs.CACHE_CONTROL,
        "Keep-Alive",
        wire.REQUEST_ID_HEADER,
        wire.REACH_HEADER,
        wire.FORWARDED_HEADER,
        wire.HOT_HEADER,
        wire.MEMBER_HEADER,
    )
)
"""Headers of a request that belong to its connection, or that we set."""
NOT_PASSED_BACK = frozenset(name.lower() for name in (hdrs.CONNECTION, "Keep-Alive", wire.HOT_HEADER))


def target_of(call: Call) -> str:
    """Path and query, as they came."""
    return f"{call.path}?{call.query}" if call.query else call.path


def headers_for_peer(calls: PeerCalls, call: Call) -> Iterator[tuple[str, str]]:
    """The client's headers, its token among them, so that the other gateway decides what it may do; and our proof."""
    for name, value in call.headers.items():
        if name.lower() not in NOT_PASSED_ON:
            yield name, value
    yield wire.REQUEST_ID_HEADER, call.id
    yield calls.proof()


def is_from_peer(calls: PeerCalls | None, call: Call) -> bool:
    """Whether another gateway passed this request on."""
    return calls is not None and calls.is_peer(call.headers)


def copies_in(headers: Any) -> int:
    """How many gateways should hold the object, as the other one says; 0 where it says nothing."""
    return small_number(headers.get(wire.HOT_HEADER, "")) or 0


def copies_line(copies: int) -> str:
    """The header line that tells the other one."""
    return f"{wire.HOT_HEADER}: {copies}\r\n" if copies > 1 else ""
