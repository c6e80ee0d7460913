"""One worker's end of the worker protocol (`shardgate.wire`), over a Unix or TCP stream socket.

**Reading.** The frame for a megabyte of shared memory is 34 bytes, so one `recv` usually brings several frames. They
are parsed from one buffer, and nothing is awaited while there are any.

On TCP the bytes of a frame trickle in, and every wake-up costs as much as copying a hundred KiB. So the kernel wakes us
only for a good part of a frame (`SO_RCVLOWAT`).

**Shared memory.** The ring is mapped copy-on-write and only read. That costs nothing until `close`: closing touches the
pages of the chunk that somebody may still be sending, which gives this process its own copy of them, and only then lets
the worker go. So bytes that were handed out never change, whatever the worker does with its ring next. `keep` does the
same for a chunk and goes on with a fresh mapping. A ring that a worker could shrink would kill the gateway with SIGBUS,
so only a sealed one is mapped.

**Acknowledging.** ACKs are sent when a quarter of the ring is done with, and always before waiting: a worker that waits
for space while we wait for bytes would be a deadlock.

**A worker is not trusted.** It runs user code, so lengths, offsets, descriptors and the values of records are checked;
what breaks the rules is lost. One that sends without a pause, frames without a byte for example, never makes us wait,
so the loop gets its turn every few frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
from typing import TYPE_CHECKING, TypeVar

from shardgate import wire
from shardgate.records import RecordError
from shardgate_gateway.errors import WorkerLost
from shardgate_gateway.etl.runner import Chunk, WorkerConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")

BUFFER_BYTES = 64 << 10
WAKE_BYTES = 256 << 10
"""Of a frame that is under way, this much at a time is worth waking up for, or what is left of it."""
MAX_DESCRIPTORS = 4
"""With a HELLO, which needs one: a worker could hand over all that this process may have open."""
TURN_FRAMES = 64
"""After so many frames for which nobody had to wait, others have their turn."""
_SPAN_BYTES = wire.CHECKPOINT.size + wire.SPAN.size


class StreamConnection(WorkerConnection):
    """A job on a connected, non-blocking stream socket, which this object owns from now on.

    Args:
        sock: To the worker.
        progress_timeout: Seconds without any frame, once the worker took the job, after which it counts as hung.
        ring_bytes: Size of the only ring that is taken; 0 takes none.
    """

    def __init__(self, sock: socket.socket, progress_timeout: float, ring_bytes: int = 0) -> None:
        self._sock = sock
        self._timeout: float | None = None  # waiting for a free worker takes as long as it takes
        self._progress_timeout = progress_timeout
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(BUFFER_BYTES)
        self._start = self._end = 0
        self._reading = BUFFER_BYTES
        self._space = bytearray()
        self._ring_bytes = ring_bytes
        self._ring_fd = -1
        self._ring: memoryview | None = None
        self._held: memoryview | None = None
        self._consumed = self._acknowledged = 0
        self._outgoing = bytearray()
        self._low_water = 1
        self._watching = False
        self._frames = 0
        """Since the loop had a turn."""
        self._waiter: asyncio.Future[None] | None = None

    async def start(self, job: wire.Job, input_fd: int | None) -> None:
        """Send the job and wait for the worker that takes it.

        Raises:
            WorkerLost: The connection ended before.
        """
        frame = wire.pack_frame(wire.FrameType.JOB, job.pack())
        try:
            await self._send_job(frame, input_fd)
            kind, payload, descriptors = await self._receive_hello()
        except OSError as error:
            raise WorkerLost(f"the runtime closed the connection: {error}") from error
        try:
            if kind == wire.FrameType.FAIL:
                raise WorkerLost(_decode(wire.Failure.unpack, payload).message)
            if kind != wire.FrameType.HELLO:
                raise WorkerLost(f"a worker began with frame {kind} instead of HELLO")
            self.hello = _decode(wire.Hello.unpack, payload)
            if problem := wire.protocol_problem(self.hello.version):
                raise WorkerLost(f"a worker can't be understood: {problem}", hint="restart the transform")
            if self.hello.ring_size:
                self._take_ring(descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._timeout = self._progress_timeout

    async def receive(self) -> Chunk | wire.End | wire.Failure:
        self._frames += 1
        if self._frames > TURN_FRAMES:
            self._frames = 0
            await asyncio.sleep(0)
        try:
            kind, length = await self._header()
            if kind == wire.FrameType.SPAN and length == _SPAN_BYTES:
                return await self._span()
            if kind == wire.FrameType.DATA and length >= wire.CHECKPOINT.size:
                return await self._data(length)
            if kind == wire.FrameType.END:
                return _decode(wire.End.unpack, await self._payload(length))
            if kind == wire.FrameType.FAIL:
                return _decode(wire.Failure.unpack, await self._payload(length))
        except OSError as error:
            raise WorkerLost(f"worker {self.hello.worker} was lost: {error}") from error
        raise WorkerLost(f"worker {self.hello.worker} sent a frame of type {kind} with {length} bytes")

    async def consumed(self, count: int) -> None:
        self._held = None
        if self._ring is not None:
            self._consumed += count
            if (self._consumed - self._acknowledged) * 4 >= len(self._ring):
                self._acknowledge()

    def keep(self) -> None:
        self._space = bytearray()
        if self._held is None:
            return
        count = len(self._held)
        self._own_held()
        self._ring = _map_ring(self._ring_fd, self._ring_bytes)  # the copied pages show nothing new
        self._consumed += count
        self._acknowledge()

    def close(self) -> None:
        self._own_held()
        self._ring = None
        if self._ring_fd >= 0:
            os.close(self._ring_fd)
            self._ring_fd = -1
        if self._sock.fileno() >= 0:
            self._unwatch()
            self._acknowledge()
            self._sock.close()

    def _own_held(self) -> None:
        """Give this process its own copy of the pages of the last chunk."""
        held, self._held = self._held, None
        if held:
            for place in range(0, len(held), mmap.PAGESIZE):
                held[place] = held[place]
            held[-1] = held[-1]

    def _take_ring(self, descriptors: list[int]) -> None:
        if not descriptors or self.hello.ring_size != self._ring_bytes:
            raise WorkerLost(
                f"a worker's ring has {self.hello.ring_size} bytes and {len(descriptors)} descriptors, "
                f"not {self._ring_bytes} and one"
            )
        self._ring_fd = descriptors.pop(0)
        self._ring = _map_ring(self._ring_fd, self._ring_bytes)

    async def _send_job(self, frame: bytes, input_fd: int | None) -> None:
        sent = 0
        if input_fd is not None:
            sent = socket.send_fds(self._sock, [frame], [input_fd])
        await self._loop.sock_sendall(self._sock, frame[sent:])

    async def _receive_hello(self) -> tuple[int, bytearray, list[int]]:
        descriptors: list[int] = []

        def receive(view: memoryview) -> int:
            space = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
            count, ancillary, _, _ = self._sock.recvmsg_into([view], space, socket.MSG_CMSG_CLOEXEC)
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.extend(memoryview(data)[: len(data) // 4 * 4].cast("i"))
            if len(descriptors) > MAX_DESCRIPTORS:
                raise WorkerLost(f"a worker sent {len(descriptors)} descriptors with its HELLO, which needs one")
            return count

        try:
            while self._end < wire.FRAME.size or self._end < wire.FRAME.size + self._length_at(0):
                await self._more(receive, BUFFER_BYTES)
            kind, length = await self._header()
            return kind, await self._payload(length), descriptors
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _length_at(self, place: int) -> int:
        length: int = wire.FRAME.unpack_from(self._buffer, place)[1]
        if length > BUFFER_BYTES - wire.FRAME.size:
            raise WorkerLost(f"a worker's HELLO has {length} bytes")
        return length

    async def _header(self) -> tuple[int, int]:
        kind, length = wire.FRAME.unpack_from(self._buffer, await self._need(wire.FRAME.size))
        if length > wire.MAX_FRAME:
            raise WorkerLost(f"worker {self.hello.worker} sent a frame of {length} bytes")
        return kind, length

    async def _span(self) -> Chunk:
        place = await self._need(_SPAN_BYTES)
        offset, length = wire.SPAN.unpack_from(self._buffer, place + wire.CHECKPOINT.size)
        ring = self._ring
        if ring is None or offset + length > len(ring):
            raise WorkerLost(f"worker {self.hello.worker} pointed outside of its ring")
        self._held = ring[offset : offset + length]
        return Chunk(self._held.toreadonly(), _checkpoint(self._buffer, place))

    async def _data(self, length: int) -> Chunk:
        """Take a frame's bytes into memory that every frame uses: fresh memory would cost more than the copy."""
        if length > len(self._space):
            self._space = bytearray(length)
        self._reading = wire.FRAME.size  # from now on, only as much as would have to be copied from there anyhow
        space = memoryview(self._space)[:length]
        await self._fill(space)
        return Chunk(space[wire.CHECKPOINT.size :].toreadonly(), _checkpoint(space, 0))

    async def _need(self, count: int) -> int:
        """Take `count` bytes of the buffer, which has them when this returns; says where they begin."""
        while self._end - self._start < count:
            await self._more(self._sock.recv_into, max(count, self._reading))
        place = self._start
        self._start += count
        return place

    async def _payload(self, length: int) -> bytearray:
        """Take a payload of any length into memory of its own."""
        payload = bytearray(length)
        await self._fill(memoryview(payload))
        return payload

    async def _fill(self, view: memoryview) -> None:
        have = min(len(view), self._end - self._start)
        view[:have] = memoryview(self._buffer)[self._start : self._start + have]
        self._start += have
        while have < len(view):
            have += await self._receive(self._sock.recv_into, view[have:], worth=min(len(view) - have, WAKE_BYTES))

    async def _more(self, receive: Callable[[memoryview], int], limit: int) -> None:
        """Receive at least one byte more, and not more than `limit` bytes in all."""
        rest = self._buffer[self._start : self._end]
        self._buffer[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        self._end += await self._receive(receive, memoryview(self._buffer)[self._end : limit])

    async def _receive(self, receive: Callable[[memoryview], int], view: memoryview, *, worth: int = 1) -> int:
        """Receive something; `worth`: where we have to wait for it, wait for so many bytes, or for the end."""
        while True:
            try:
                count = receive(view)
            except BlockingIOError:
                self._acknowledge()
                self._wake_at(worth)
                await self._readable()
                continue
            if count == 0:
                raise ConnectionResetError("it closed the connection without END")
            return count

    def _wake_at(self, count: int) -> None:
        """Have the kernel call the socket readable when so many bytes are there. Only TCP heeds it."""
        if count != self._low_water:
            self._low_water = count
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    async def _readable(self) -> None:
        """Wait until there is something to read. The loop keeps watching between two waits, for the next is near."""
        self._waiter = waiter = self._loop.create_future()
        self._frames = 0
        timer = self._loop.call_later(self._timeout, _expire, waiter) if self._timeout is not None else None
        if not self._watching:
            self._loop.add_reader(self._sock.fileno(), self._wake)
            self._watching = True
        try:
            await waiter
        except TimeoutError:
            raise WorkerLost(
                f"worker {self.hello.worker} finished no sample in {self._timeout:g} s",
                hint="give the transform a sample_timeout, or raise etl.progress_timeout",
            ) from None
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is None or self._waiter.done():
            self._unwatch()  # nobody wants it yet, and the loop would ask again and again
        else:
            self._waiter.set_result(None)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._sock.fileno())

    def _acknowledge(self) -> None:
        if self._consumed > self._acknowledged:
            self._acknowledged = self._consumed
            self._outgoing += wire.pack_frame(wire.FrameType.ACK, wire.ACK.pack(self._consumed))
        if self._outgoing:
            # A worker that died is noticed by the next receive, after what it sent before was received.
            with contextlib.suppress(OSError):
                del self._outgoing[: self._sock.send(self._outgoing)]


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _map_ring(descriptor: int, size: int) -> memoryview:
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or size > os.fstat(descriptor).st_size:
            raise WorkerLost(f"a worker's ring is not {size} bytes that are sealed against shrinking")
        return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise WorkerLost(f"a worker's ring can't be mapped: {error}") from error


def _checkpoint(buffer: bytearray | memoryview, place: int) -> wire.Checkpoint:
    return wire.Checkpoint(*wire.CHECKPOINT.unpack_from(buffer, place))


def _decode(unpack: Callable[[bytearray], T], payload: bytearray) -> T:
    try:
        return unpack(payload)
    except RecordError as error:
        raise WorkerLost(f"a worker sent a payload that can't be read: {error}") from error
