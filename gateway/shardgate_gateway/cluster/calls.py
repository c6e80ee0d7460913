"""Requests that this gateway makes to the others, for a client or of its own accord.

A question goes to one gateway or to all; the answer is a JSON object. A write goes to one gateway, which is asked first
whether it takes the body (`Expect: 100-continue`): until then nothing of the body is used up, and another gateway can
do the write. A gateway that can't be reached is reported to `Peers`, which leaves it out for a while.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aiohttp import hdrs

from shardgate import wire
from shardgate_gateway.cluster.connection import CONTINUE, NotReached, json_object
from shardgate_gateway.error_record import error_of
from shardgate_gateway.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from shardgate_gateway.cluster.connection import Answer
    from shardgate_gateway.cluster.credentials import Credentials
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.cluster.peers import Peers

    Headers = Iterable[tuple[str, str]]


class Body(Protocol):
    """What a write brings. `size` is None where only the end of the chunks tells it."""

    size: int | None

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, once; ends normally only when all of them came."""


class WriteAnswer(NamedTuple):
    """What a gateway answered to a write."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class PeerCalls:
    """Asks other gateways.

    Args:
        peers: Who is there.
        credentials: What this gateway shows to them.
    """

    def __init__(self, peers: Peers, credentials: Credentials) -> None:
        self.peers = peers
        self.credentials = credentials

    def is_peer(self, headers: Mapping[str, str]) -> bool:
        """Whether these headers prove that a gateway of this cluster asks."""
        return self.credentials.are_valid(headers.get(wire.FORWARDED_HEADER))

    def proof(self) -> tuple[str, str]:
        """The header line that proves it of this gateway."""
        return wire.FORWARDED_HEADER, self.credentials.token()

    async def ask(self, member: Member, target: str, headers: Headers) -> dict[str, Any]:
        """Have a POST answered by this member.

        Raises:
            NotReached: It was not asked.
            GatewayError: What it answered.
        """
        answer = await self.peers.client.ask(member, hdrs.METH_POST, target, headers)
        try:
            content = json_object(await answer.read())
        finally:
            answer.close()
        if content is None:
            raise answer.connection.lost("its answer is no JSON object")
        if answer.head.status >= HTTPStatus.BAD_REQUEST:
            raise error_from(content)
        return content

    async def ask_first(self, members: Iterable[Member], target: str, headers: Headers) -> dict[str, Any] | None:
        """As `ask`, of the first of these that can be reached; None where none can."""
        headers = list(headers)
        for member in members:
            try:
                return await self.ask(member, target, headers)
            except NotReached as error:
                self.peers.suspect(member, error)
        return None

    async def ask_others(self, target: str, headers: Headers) -> list[dict[str, Any]]:
        """As `ask`, of all others that can be reached, one after the other."""
        headers = list(headers)
        answers = []
        for member in self.peers.others:
            try:
                answers.append(await self.ask(member, target, headers))
            except NotReached as error:
                self.peers.suspect(member, error)
        return answers

    async def poll_others(self, method: str, target: str, headers: Headers) -> list[dict[str, Any]]:
        """Ask all others at once for something short; the answers of those that give one soon."""
        headers = list(headers)
        answers = await asyncio.gather(*(self._poll(member, method, target, headers) for member in self.peers.others))
        return [answer for answer in answers if answer is not None]

    async def _poll(self, member: Member, method: str, target: str, headers: Headers) -> dict[str, Any] | None:
        try:
            status, content = await self.peers.client.tell(member, method, target, headers)
            return json_object(content) if status == HTTPStatus.OK else None
        except UpstreamUnavailable as error:
            self.peers.suspect(member, error)
            return None

    async def write(self, member: Member, method: str, target: str, headers: Headers, body: Body | None) -> WriteAnswer:
        """Have a PUT or DELETE done by this member.

        Raises:
            NotReached: It was not asked, or was lost before it took a byte of the body.
            UpstreamUnavailable: It was lost later.
        """
        try:
            answer = await self.peers.client.ask(member, method, target, [*headers, *_framing(body)])
        except UpstreamUnavailable as error:
            if body is None:
                raise
            raise NotReached(error.message, hint=error.hint) from error  # it has seen nothing of the body
        try:
            if body is not None and answer.head.status == CONTINUE:
                await _send_body(answer, body)
            content = await answer.read()
        finally:
            answer.close(keep=body is None)  # the member may have answered without having read the body
        return WriteAnswer(answer.head.status, answer.head.headers, content)


def error_from(content: Mapping[str, Any]) -> Exception:
    """The error that a gateway's problem document tells of."""
    return error_of((str(content.get("code")), str(content.get("message")), str(content.get("hint", ""))))


def _framing(body: Body | None) -> Headers:
    if body is None:
        return ()
    length = (hdrs.TRANSFER_ENCODING, "chunked") if body.size is None else (hdrs.CONTENT_LENGTH, str(body.size))
    return (hdrs.EXPECT, "100-continue"), length


async def _send_body(answer: Answer, body: Body) -> None:
    """Send the chunks, until the member has them all or has answered already; then read its answer's head."""
    connection = answer.connection
    connection.will_send_a_body()
    async for chunk in body.chunks():
        await connection.send(chunk if body.size is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if not connection.silent():
            break
    else:
        if body.size is None:
            await connection.send(b"0\r\n\r\n")
    answer.head = await connection.head()
    answer.bodyless = False
