"""To the gateway that an object belongs to: by redirect, by proxy, or not at all because it is here.

**Where to.** `cluster/peers.py` ranks the gateways for the object. The first one owns it: its cache, its fetch from
the store, its writes and its transforms. A request that comes from another gateway is answered where it arrives,
whatever the rank, so that gateways which disagree never send a request in circles.

**How.** A client that said it reaches the owner by itself is redirected, and its bytes take one hop. All others are
proxied, because an address that a pod reaches may mean nothing to a laptop. The user's own token goes along, so the
owner decides what it may do; another header proves that a gateway asks.

**When it fails.** A gateway that can't be asked, or is lost before its answer began, is skipped for the next in rank,
and at last this gateway answers by itself. Once the head has gone out, a body that breaks off upstream is broken off
here: the reader sees an aborted connection, never an end. For a PUT the owner is asked first whether it takes the body
(`Expect: 100-continue`), so until then nothing is lost by asking another one. A DELETE that may have been heard is not
repeated.

**New owners.** Where a gateway joins or comes back, it takes objects over from the one that was their owner until then,
and that is the next in rank now. For a while the new owner looks there before it fetches anything from the store, so an
object is fetched once also while owners change (`cache/peer.py`).

**Hot objects.** The owner says how many gateways should hold an object (`cluster/heat.py`). Those keep a copy of it,
read from the owner, and the others spread their requests over them.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import hdrs, web

from shardgate import wire
from shardgate.text import safe_line
from shardgate_gateway import metrics
from shardgate_gateway.cache.control import error_of
from shardgate_gateway.cache.peer import ONLY_CACHED, InheritedSource, PeerBucket, PeerSource
from shardgate_gateway.cluster.connection import CONTINUE, RECEIVE_BYTES, NotReached, json_object
from shardgate_gateway.errors import NotFound, UpstreamUnavailable
from shardgate_gateway.http.body import Sent, send_now, send_parts
from shardgate_gateway.http.reply import gaps_line
from shardgate_gateway.http.request import object_target, small_number
from shardgate_gateway.http.upload import Upload
from shardgate_gateway.tokens import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.cluster.connection import Answer, Head
    from shardgate_gateway.cluster.credentials import Credentials
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.cluster.peers import Peers
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.service import Bucket, Service

    Handler = Callable[[Service, Call], Awaitable[web.StreamResponse]]

INHERITING_SECONDS = 3600.0
"""How long a new owner looks at the one before: most of what readers want has passed by until then."""
READS = (hdrs.METH_GET, hdrs.METH_HEAD)
NOT_PASSED_ON = frozenset(
    name.lower()
    for name in (
        *(hdrs.CONNECTION, hdrs.HOST, hdrs.EXPECT, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.UPGRADE),
        *(
            hdrs.CACHE_CONTROL,
            "Keep-Alive",
            wire.REQUEST_ID_HEADER,
            wire.REACH_HEADER,
            wire.FORWARDED_HEADER,
            wire.HOT_HEADER,
            wire.MEMBER_HEADER,
        ),
    )
)
"""Headers of a request that belong to its connection, or that we set."""
NOT_PASSED_BACK = frozenset(name.lower() for name in (hdrs.CONNECTION, "Keep-Alive", wire.HOT_HEADER))


def at_owner(handler: Handler) -> Handler:
    """Have requests for an object answered by the gateway that it belongs to."""

    async def answer(service: Service, call: Call) -> web.StreamResponse:
        if service.forwarder is None:
            return await handler(service, call)
        target = object_target(call.request.raw_path)
        action = READ if call.request.method in READS else WRITE
        bucket = service.buckets.find(target.bucket, target.provider, call.grant, action=action, key=target.key)
        whole = target.plain and call.request.method == hdrs.METH_GET
        if call.request.method in READS:
            return await service.forwarder.read(service, call, handler, bucket, target.key, whole=whole)
        return await service.forwarder.write(service, call, handler, bucket, target.key)

    return answer


class Forwarder:
    """Sends requests on.

    Args:
        peers: Who is there.
        credentials: What this gateway shows to them.
    """

    def __init__(self, peers: Peers, credentials: Credentials) -> None:
        self.peers = peers
        self._credentials = credentials

    def is_from_peer(self, call: Call) -> bool:
        return self.is_peer(call.headers)

    def is_peer(self, headers: Mapping[str, str]) -> bool:
        """Whether these headers prove that a gateway of this cluster asks."""
        return self._credentials.are_good(headers.get(wire.FORWARDED_HEADER))

    def heat_line(self, thing: str) -> str:
        """Count a request that another gateway passed on; the header line that the answer gets if the object is hot."""
        copies = self.peers.heat.count(thing)
        return f"{wire.HOT_HEADER}: {copies}\r\n" if copies > 1 else ""

    # --- reading

    async def read(
        self, service: Service, call: Call, handler: Handler, bucket: Bucket, key: str, *, whole: bool
    ) -> web.StreamResponse:
        """Answer a GET or HEAD here, or have it answered; `whole`: for the raw object, of which copies are kept."""
        source = bucket.source(key)
        thing, peers = source.entry_name, self.peers
        ranked = peers.ranked(thing)
        if self.is_from_peer(call):
            return await handler(service, self._for_peer(service, call, bucket, key, whole=whole))
        copies = min(peers.heat.copies(thing), len(ranked)) if whole else 1
        if peers.me == ranked[0]:
            return await handler(service, replace(call, copy_of=self.source(bucket, key)))
        if peers.me in ranked[:copies]:
            return await handler(service, self._from(ranked[0], call, bucket, key))
        first = random.choice(ranked[:copies])  # noqa: S311
        if first.name in _reached(call):
            peers.heat.heard(thing, max(copies, peers.heat.count(thing)))
            return _redirect(call, first)
        for member in (first, *(other for other in ranked if other != first)):
            if member == peers.me:
                break
            try:
                return await self._proxy(call, member, thing, copies)
            except UpstreamUnavailable as error:
                metrics.FORWARDED.labels("skip").inc()
                peers.suspect(member, error)
        return await handler(service, call)

    def _for_peer(self, service: Service, call: Call, bucket: Bucket, key: str, *, whole: bool) -> Call:
        """The call of another gateway, answered here: where the object comes from."""
        source, me = bucket.source(key), self.peers.me
        meant = call.headers.get(wire.MEMBER_HEADER, me.name)
        if meant != me.name:  # an address may be another gateway's by now, and who may wait for whom goes by names
            raise UpstreamUnavailable(f"gateway {safe_line(meant, 80)} was asked, and this is {me.name}")
        if call.headers.get(hdrs.CACHE_CONTROL) == ONLY_CACHED:
            if not service.cache.holds(source):
                raise NotFound(f"{source.label} is not in the cache of this gateway")
            return replace(call, copy_of=bucket.kept(key))
        owner = self.peers.ranked(source.entry_name)[0]
        if owner != me:
            hot = whole and _copies(call.headers) > 1
            return self._from(owner, call, bucket, key) if hot else call
        line = self.heat_line(source.entry_name) if whole else ""
        return replace(call, more=line, copy_of=self.source(bucket, key))

    def source(self, bucket: Bucket, key: str) -> Source:
        """Where an object of ours comes from: its store, or who had it before."""
        source = bucket.source(key)
        ranked = self.peers.ranked(source.entry_name)
        if len(ranked) == 1 or time.monotonic() > self.peers.grew_at + INHERITING_SECONDS:
            return source
        return InheritedSource(source, self._bucket(ranked[1], bucket, only_cached=True), key)

    def _from(self, owner: Member, call: Call, bucket: Bucket, key: str) -> Call:
        """The same call, for our copy of an object that is read from its owner."""
        copy = PeerSource(bucket.source(key), self._bucket(owner, bucket, only_cached=False), key)
        return replace(call, copy_of=copy)

    def _bucket(self, member: Member, bucket: Bucket, *, only_cached: bool) -> PeerBucket:
        """A bucket as a member has it."""
        token = self._credentials.token
        return PeerBucket(self.peers.client, member, bucket.provider, bucket.name, token, only_cached=only_cached)

    async def _proxy(self, call: Call, member: Member, thing: str, copies: int) -> Sent:
        """Pass the request on, and the answer back.

        Raises:
            UpstreamUnavailable: There was none, and nothing was sent to the client.
        """
        version = call.request.version
        answer = await self.peers.client.ask(
            member,
            call.request.method,
            _target(call),
            self._headers(call, {wire.HOT_HEADER: str(copies)} if copies > 1 else {}),
            version=f"{version.major}.{version.minor}",
        )
        try:
            if copies_now := _copies(answer.head.headers):
                self.peers.heat.heard(thing, copies_now)
            length = answer.length
            small = await answer.read() if length is not None and length <= RECEIVE_BYTES else None
            status, top = HTTPStatus(answer.head.status), _head(call, member, answer.head)
            metrics.FORWARDED.labels("proxy").inc()
            metrics.SENT_BYTES.labels("proxy").inc(length or 0)
            if small is not None:
                return await send_now(call, status, top, small)
            return await send_parts(
                *(call, status, top, answer.parts()),
                length=length,
                trailers=lambda: gaps_line(small_number(answer.trailers.get(wire.GAPS_HEADER, "")) or 0),
            )
        finally:
            answer.close()

    def _headers(self, call: Call, more: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, value in call.headers.items():
            if name.lower() not in NOT_PASSED_ON:
                yield name, value
        yield wire.REQUEST_ID_HEADER, call.id
        yield wire.FORWARDED_HEADER, self._credentials.token()
        yield from more.items()

    # --- writing

    async def write(
        self, service: Service, call: Call, handler: Handler, bucket: Bucket, key: str
    ) -> web.StreamResponse:
        """Have a PUT or DELETE done by the owner; it then tells all others to drop what they have."""
        if not self.is_from_peer(call):
            for member in self.peers.ranked(bucket.source(key).entry_name):
                if member == self.peers.me:
                    break
                try:
                    return await self._pass_write(service, call, member)
                except NotReached as error:
                    metrics.FORWARDED.labels("skip").inc()
                    self.peers.suspect(member, error)
        try:
            return await handler(service, call)
        finally:
            await self._tell_all_to_forget(bucket, key)

    async def _pass_write(self, service: Service, call: Call, member: Member) -> web.StreamResponse:
        method, upload = call.request.method, None
        framing: dict[str, str] = {}
        if method == hdrs.METH_PUT:
            upload = Upload(call, service.settings.serve.max_put_bytes, service.settings.serve.upload_stall_seconds)
            framing = {hdrs.EXPECT: "100-continue"}
            if upload.size is None:
                framing[hdrs.TRANSFER_ENCODING] = "chunked"
            else:
                framing[hdrs.CONTENT_LENGTH] = str(upload.size)
        try:
            answer = await self.peers.client.ask(member, method, _target(call), self._headers(call, framing))
        except UpstreamUnavailable as error:
            if upload is None:
                raise
            raise NotReached(error.message, hint=error.hint) from error  # it has seen nothing of the body
        try:
            if upload is not None and answer.head.status == CONTINUE:
                await _send_body(answer, upload)
            content = await answer.read()
        finally:
            answer.close(keep=upload is None)  # the owner may have answered without having read the body
        metrics.FORWARDED.labels("proxy").inc()
        headers = {name: value for name, value in answer.head.headers.items() if name.lower() not in NOT_PASSED_BACK}
        headers.pop(hdrs.CONTENT_LENGTH, None)
        headers[wire.MEMBER_HEADER] = member.name
        return web.Response(status=answer.head.status, body=content, headers=headers)

    async def _tell_all_to_forget(self, bucket: Bucket, key: str) -> None:
        query = urlencode({"provider": bucket.provider, "bucket": bucket.name, "object": key})
        await asyncio.gather(*(self._tell(member, f"/v1/cluster/forget?{query}") for member in self.peers.others))

    async def _tell(self, member: Member, target: str) -> None:
        try:
            await self.peers.client.tell(member, hdrs.METH_POST, target, [self._credentials.bearer()])
        except UpstreamUnavailable as error:
            self.peers.suspect(member, error)

    # --- other work on objects

    async def ask_owner(self, call: Call, bucket: Bucket, key: str) -> Any:
        """Have the same POST done by the owner of one object: its JSON answer, or None where the owner is this gateway.

        Raises:
            GatewayError: What the owner answered.
        """
        query = urlencode({"provider": bucket.provider, "bucket": bucket.name, "object": key})
        for member in self.peers.ranked(bucket.source(key).entry_name):
            if member == self.peers.me:
                break
            try:
                return await self.ask(call, member, f"{call.path}?{query}")
            except NotReached as error:
                self.peers.suspect(member, error)
        return None

    async def ask_others(self, call: Call) -> list[Any]:
        """Have the same POST done by all other gateways: the JSON answers of those that can be reached."""
        answers = []
        for member in self.peers.others:
            try:
                answers.append(await self.ask(call, member, _target(call)))
            except NotReached as error:
                self.peers.suspect(member, error)
        return answers

    async def hear_others(self, call: Call) -> list[Any]:
        """The JSON answers of all other gateways to the same short question, of those that give one soon."""
        told = await asyncio.gather(*(self._hear(call, member) for member in self.peers.others))
        return [answer for answer in told if answer is not None]

    async def _hear(self, call: Call, member: Member) -> Any:
        try:
            headers = self._headers(call, {})
            status, body = await self.peers.client.tell(member, call.request.method, _target(call), headers)
            return json_object(body) if status == HTTPStatus.OK else None
        except UpstreamUnavailable as error:
            self.peers.suspect(member, error)
            return None

    async def ask(self, call: Call, member: Member, target: str) -> Any:
        """Have a POST answered by this member. Raises as `ask_owner`, and NotReached."""
        answer = await self.peers.client.ask(member, hdrs.METH_POST, target, self._headers(call, {}))
        try:
            content = json_object(await answer.read())
        finally:
            answer.close()
        if content is None:
            raise answer.connection.lost("its answer is no JSON object")
        if answer.head.status >= HTTPStatus.BAD_REQUEST:
            raise error_of((str(content.get("code")), str(content.get("message")), str(content.get("hint", ""))))
        return content


async def _send_body(answer: Answer, upload: Upload) -> None:
    """Send what the client sends, until the owner has it all or has heard enough; then read its answer's head."""
    connection = answer.connection
    connection.will_send_a_body()
    async for chunk in upload.chunks():
        await connection.send(chunk if upload.size is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if not connection.silent():
            break
    else:
        if upload.size is None:
            await connection.send(b"0\r\n\r\n")
    answer.head = await connection.head()
    answer.bodyless = False


def _target(call: Call) -> str:
    return f"{call.path}?{call.query}" if call.query else call.path


def _reached(call: Call) -> frozenset[str]:
    """Members that the client can be redirected to."""
    return frozenset(name.strip() for name in call.headers.get(wire.REACH_HEADER, "").split(","))


def _copies(headers: Any) -> int:
    return small_number(headers.get(wire.HOT_HEADER, "")) or 0


def _redirect(call: Call, member: Member) -> web.Response:
    metrics.FORWARDED.labels("redirect").inc()
    headers = {hdrs.LOCATION: member.url + _target(call), wire.MEMBER_HEADER: member.name}
    return web.Response(status=HTTPStatus.TEMPORARY_REDIRECT, headers=headers)


def _head(call: Call, member: Member, head: Head) -> bytes:
    """The answer's head as it came, with what belongs to our own connection."""
    lines = [f"HTTP/1.1 {head.status} {HTTPStatus(head.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in head.headers.items() if name.lower() not in NOT_PASSED_BACK]
    lines += [f"{wire.MEMBER_HEADER}: {member.name}", f"Connection: {'close' if call.closing else 'keep-alive'}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
