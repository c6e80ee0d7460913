"""HTTP/1.1 to another gateway, on a socket of our own.

A gateway that proxies a shard should not look at its bytes. aiohttp's client would read each of them into Python and
write it out again; with the bare socket the kernel can move a body from one connection to the other (`http/splice.py`).
What is left to do here is little, because both ends are ours: send a head, read a head, and know where the body ends.

What can go wrong: a peer that dies. Connecting has a limit of about a second. After that the kernel looks after the
connection by keepalive probes, so that a machine that is gone is found in seconds. How long an answer may rightly take
nobody here can know: a worker starts, a sample is slow. So there is no limit on it. A peer that is silent is asked from
time to time whether it lives, on another connection, and waited for as long as it does; one that hangs while its kernel
lives is found by that. All of it becomes UpstreamUnavailable.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import hdrs
from multidict import CIMultiDict

from shardgate.framing import BODYLESS, framing_of
from shardgate.wire import paths
from shardgate_gateway.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from shardgate_gateway.cluster.membership import Member

LOOK_SECONDS = 10.0
"""Of silence, before a peer is asked whether it lives, and from then on between two questions."""
LOOKS = 4
"""Questions in a row without an answer, after which a peer counts as lost: busy ones answer one of them."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 2, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 5000}
"""Found after 5 seconds: a machine that is gone, whether it owes us an answer or the receipt of a request."""
SHORT_SECONDS = 2.0
"""For questions about the gateway itself."""
MAX_HEAD = 64 << 10
RECEIVE_BYTES = 64 << 10
SPLICE_BYTES = 128 << 10
"""Below that, reading and writing is cheaper than a pipe."""
IDLE_CONNECTIONS = 64
"""Kept per member for the next request."""
CONTINUE = 100
_STATUS_LINE = re.compile(r"HTTP/1\.[0-9] ([0-9]{3})(?: |$)")
_STATUSES = frozenset(status.value for status in HTTPStatus)
"""An answer is passed on with its status, so that has to be one."""
_CHUNK_SIZE = re.compile(r"[0-9a-fA-F]{1,15}[ \t]*(?:;.*)?")


class NotReached(UpstreamUnavailable):
    """There is no way to the gateway: it was not asked."""


class Silent(UpstreamUnavailable):
    """The gateway is there, and has not answered for a while: it may be busy."""


class Incoming(NamedTuple):
    """Bytes that are still to be taken from a connection's socket."""

    connection: Connection
    length: int


@dataclass(slots=True)
class Head:
    """Status line and headers of an answer."""

    status: int
    headers: CIMultiDict[str]


class Connection:
    """One connection to a member, for one exchange at a time."""

    def __init__(self, member: Member, sock: socket.socket, is_alive: Callable[[Member], Awaitable[bool]]) -> None:
        self.member = member
        self._is_alive = is_alive
        self.used = False
        """It has carried an exchange before, so the other end may have closed it since."""
        self.trailers: CIMultiDict[str] = CIMultiDict()
        """Header lines that came behind the last chunk of the last body."""
        self._socket = sock
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def lost(self, cause: object) -> UpstreamUnavailable:
        """What to raise when the peer is gone."""
        return UpstreamUnavailable(
            f"gateway {self.member.name} at {self.member.url} broke off: {cause}",
            hint="ask again; another one takes over",
        )

    def silent(self) -> bool:
        """Nothing came that was not read, not even an end."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._buffer
        except OSError:
            return False
        return False

    async def send(self, data: bytes | memoryview) -> None:
        """Return when the kernel has taken everything."""
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await self._wait(to_write=True)
            except OSError as error:
                raise self.lost(error.strerror) from error

    async def splice(self, pipe: int, count: int) -> int:
        """Move up to `count` bytes into a pipe that has room for them; returns how many."""
        while True:
            try:
                moved = os.splice(self._socket.fileno(), pipe, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                await self.readable()
                continue
            except OSError as error:
                raise self.lost(error.strerror) from error
            if not moved:
                raise self.lost("it closed the connection")
            return moved

    def will_send_a_body(self) -> None:
        """A peer may rightly take a body slowly; the kernel's limit on unread bytes would take that for its death."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    async def readable(self) -> None:
        """Wait until bytes came, or an end."""
        await self._wait(to_write=False)

    async def head(self) -> Head:
        """Read the head of an answer."""
        self.trailers = CIMultiDict()
        line = await self._line()
        headers = await self._fields()
        status = _STATUS_LINE.match(line)
        if status is None or int(status[1]) not in _STATUSES:
            raise self.lost("its answer is not HTTP")
        return Head(int(status[1]), headers)

    async def _fields(self) -> CIMultiDict[str]:
        """Header lines up to the empty one."""
        headers: CIMultiDict[str] = CIMultiDict()
        left = MAX_HEAD
        while line := await self._line():
            left -= len(line)
            if left < 0:
                raise self.lost(f"its answer has more than {MAX_HEAD >> 10} KiB of headers")
            name, _, value = line.partition(":")
            headers.add(name, value.strip())
        return headers

    def length(self, head: Head) -> int | None:
        """Of the body, None where it is chunked; raises UpstreamUnavailable where only a close would end it."""
        length, problem = framing_of(head.headers)
        if problem:
            raise self.lost(problem)
        return length

    async def body(self, head: Head) -> AsyncGenerator[bytes | Incoming, None]:
        """The parts of a body; ends normally only at its announced end. An `Incoming` has to be taken at once."""
        if (length := self.length(head)) is not None:
            async for part in self._exactly(length):
                yield part
            return
        while size := await self._chunk_size():
            async for part in self._exactly(size):
                yield part
            if await self._line():
                raise self.lost("a chunk is longer than it says")
        self.trailers = await self._fields()

    async def _chunk_size(self) -> int:
        line = await self._line()
        if not _CHUNK_SIZE.fullmatch(line):
            raise self.lost("a chunk of its answer has no size")
        return int(line.partition(";")[0], 16)

    async def _exactly(self, count: int) -> AsyncGenerator[bytes | Incoming, None]:
        if held := min(count, len(self._buffer)):
            yield self._take(held)
            count -= held
        if count >= SPLICE_BYTES:
            yield Incoming(self, count)
            return
        while count:
            data = await self.receive(min(count, RECEIVE_BYTES))
            yield data
            count -= len(data)

    async def _line(self) -> str:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise self.lost("its answer has no end of line")
            self._buffer += await self.receive(RECEIVE_BYTES)
        return self._take(end + 2)[:-2].decode("latin-1")

    def _take(self, count: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data

    async def receive(self, count: int) -> bytes:
        """Up to `count` of the bytes that an `Incoming` speaks of."""
        while True:
            try:
                data = self._socket.recv(count)
            except BlockingIOError:
                await self.readable()
                continue
            except OSError as error:
                raise self.lost(error.strerror) from error
            if not data:
                raise self.lost("it closed the connection")
            return data

    async def _wait(self, *, to_write: bool) -> None:
        unanswered = 0
        while not await self._is_ready(to_write=to_write):
            unanswered = 0 if await self._is_alive(self.member) else unanswered + 1
            if unanswered == LOOKS:
                raise self.lost(f"it hangs: it left {LOOKS} questions whether it lives unanswered")

    async def _is_ready(self, *, to_write: bool) -> bool:
        """Wait until the socket is ready, for so long that it is time to ask whether the peer lives (False)."""
        loop, fd = self._loop, self._socket.fileno()
        ready: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(LOOK_SECONDS, _set, ready, False)
        (loop.add_writer if to_write else loop.add_reader)(fd, _set, ready, True)
        try:
            return await ready
        finally:
            timer.cancel()
            (loop.remove_writer if to_write else loop.remove_reader)(fd)


class Answer:
    """A head that came, and the connection that its body comes on. `close` it after the body, or to give it up."""

    def __init__(self, client: PeerClient, connection: Connection, head: Head, *, bodyless: bool) -> None:
        self.head = head
        self.connection = connection
        self.bodyless = bodyless or head.status in BODYLESS
        self._client = client
        self._whole = self.bodyless
        self._is_closed = False

    @property
    def length(self) -> int | None:
        """Of the body, see `Connection.length`."""
        return 0 if self.bodyless else self.connection.length(self.head)

    @property
    def trailers(self) -> CIMultiDict[str]:
        """Header lines behind the body, once it came."""
        return self.connection.trailers

    async def parts(self) -> AsyncGenerator[bytes | Incoming, None]:
        """The body, see `Connection.body`."""
        if not self.bodyless:
            async for part in self.connection.body(self.head):
                yield part
        self._whole = True

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, for who has a use for its bytes."""
        async for part in self.parts():
            if not isinstance(part, Incoming):
                yield part
                continue
            left = part.length
            while left:
                data = await self.connection.receive(min(left, SPLICE_BYTES))
                left -= len(data)
                yield data

    async def read(self) -> bytes:
        """A short body, whole."""
        body = bytearray()
        async for part in self.parts():
            if isinstance(part, Incoming):
                raise self.connection.lost(f"{part.length} bytes where a short answer was expected")
            body += part
        return bytes(body)

    def close(self, *, keep: bool = True) -> None:
        """`keep`: the whole request was sent, so that another one may follow on the same connection. Idempotent."""
        if self._is_closed:  # somebody else may have the connection by now
            return
        self._is_closed = True
        if keep and self._whole and self.head.headers.get(hdrs.CONNECTION, "").lower() != "close":
            self._client.keep(self.connection)
        else:
            self.connection.close()


class PeerClient:
    """Connections to all members.

    Args:
        connect_timeout: Seconds after which a member that does not answer counts as away.
    """

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._idle: dict[str, deque[Connection]] = {}

    async def ask(
        self, member: Member, method: str, target: str, headers: Iterable[tuple[str, str]], *, version: str = "1.1"
    ) -> Answer:
        """Send a request without a body, or with one that is yet to be sent on the answer's connection.

        Args:
            member: Whom to ask.
            method: HTTP method.
            target: Path and query, as they stand in a request.
            headers: Without Host.
            version: Of HTTP: what the reader of the answer understands.

        Raises:
            NotReached: It can't be reached.
            UpstreamUnavailable: It was lost before its answer began.
        """
        host = urlsplit(member.url).netloc
        lines = [f"{method} {target} HTTP/{version}", f"Host: {host}", "Connection: keep-alive"]
        lines += [f"{name}: {value}" for name, value in headers]
        # A client's headers go on as the bytes that came: this is how aiohttp made text of them.
        request = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        while True:
            # What is not safe to repeat gets a connection that can't have been closed meanwhile.
            connection = await self._connection(member, reuse=method in ("GET", "HEAD"))
            try:
                await connection.send(request)
                head = await connection.head()
            except UpstreamUnavailable:
                connection.close()
                if not connection.used:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                return Answer(self, connection, head, bodyless=method == "HEAD" or head.status == CONTINUE)

    async def tell(
        self, member: Member, method: str, target: str, headers: Iterable[tuple[str, str]]
    ) -> tuple[int, bytes]:
        """Ask for something short that takes no work: status and body. Raises as `ask`."""
        try:
            async with asyncio.timeout(SHORT_SECONDS):
                answer = await self.ask(member, method, target, headers)
                try:
                    return answer.head.status, await answer.read()
                finally:
                    answer.close()
        except TimeoutError:
            raise Silent(f"gateway {member.name} did not answer within {SHORT_SECONDS:g} s") from None

    async def _is_alive(self, member: Member) -> bool:
        try:
            await self.tell(member, "GET", paths.ALIVE, ())
        except UpstreamUnavailable:
            return False
        return True

    def keep(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.member.url, deque())
        connection.used = True
        idle.append(connection)
        if len(idle) > IDLE_CONNECTIONS:
            idle.popleft().close()

    def forget(self, member: Member) -> None:
        """Close what is kept for a member that is gone."""
        for connection in self._idle.pop(member.url, ()):
            connection.close()

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    async def _connection(self, member: Member, *, reuse: bool) -> Connection:
        idle = self._idle.get(member.url)
        while reuse and idle:
            connection = idle.pop()
            if connection.silent():
                return connection
            connection.close()
        try:
            async with asyncio.timeout(self._connect_timeout):
                return Connection(member, await _connect(member.url), self._is_alive)
        except (OSError, TimeoutError) as error:
            cause = getattr(error, "strerror", None) or f"no answer within {self._connect_timeout:g} s"
            raise NotReached(
                f"gateway {member.name} can't be reached at {member.url}: {cause}",
                hint="is it running, and does a network policy let gateways reach each other?",
            ) from error


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object of an answer; None where it is anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


async def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    loop = asyncio.get_running_loop()
    with suppress(ValueError):
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET  # noqa: PLR2004
        return await _connect_to(loop, family, (host, port))
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, *_, address = found[0]
    return await _connect_to(loop, family, address[:2])


async def _connect_to(loop: asyncio.AbstractEventLoop, family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _set(ready: asyncio.Future[bool], value: bool) -> None:
    if not ready.done():
        ready.set_result(value)
