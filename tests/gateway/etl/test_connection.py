"""The gateway's end of the worker protocol, against a worker that is played by the test, honest or not."""

from __future__ import annotations

import asyncio
import fcntl
import math
import mmap
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest

from shardgate import wire
from shardgate.wire import FrameType
from shardgate_gateway.errors import WorkerLost
from shardgate_gateway.etl.connection import StreamConnection
from shardgate_gateway.etl.runner import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

RING = 1 << 20
JOB = wire.Job("request", "transform", "gcp://bucket", "key", "etag", ring=True)
AT = wire.Checkpoint(1, 512, whole=True)


class Worker:
    """The other end of the socket, and a ring."""

    def __init__(self) -> None:
        self.gateway, self.sock = socket.socketpair()
        self.gateway.setblocking(False)
        self.sock.settimeout(5)
        self.ring_fd = os.memfd_create("ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.ring_fd, RING)
        fcntl.fcntl(self.ring_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.ring = mmap.mmap(self.ring_fd, RING)

    def hello(self, ring_size: int = RING, fds: list[int] | None = None) -> None:
        payload = wire.Hello(worker="w0", ring_size=ring_size).pack()
        frame = wire.pack_frame(FrameType.HELLO, payload)
        socket.send_fds(self.sock, [frame], [self.ring_fd] if fds is None else fds)

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.sock.sendall(wire.FRAME.pack(kind, len(payload)) + payload)

    def span(self, offset: int, data: bytes, at: wire.Checkpoint = AT) -> None:
        self.ring[offset : offset + len(data)] = data
        self.send(FrameType.SPAN, wire.CHECKPOINT.pack(*at) + wire.SPAN.pack(offset, len(data)))

    def read(self) -> bytes:
        return self.sock.recv(1 << 20)

    def close(self) -> None:
        self.sock.close()
        self.gateway.close()
        self.ring.close()
        if self.ring_fd >= 0:
            os.close(self.ring_fd)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def connected(worker: Worker, patience: float = 5) -> StreamConnection:
    worker.hello()
    connection = StreamConnection(worker.gateway, patience, RING)
    await connection.start(JOB, None)
    worker.read()
    return connection


async def test_the_job_arrives_with_its_file(worker: Worker) -> None:
    worker.hello()
    connection = StreamConnection(worker.gateway, 5, RING)
    with Path(__file__).open("rb") as file:  # noqa: ASYNC230
        await connection.start(JOB, file.fileno())
    data, fds, _, _ = socket.recv_fds(worker.sock, 1 << 16, 4)
    kind, length = wire.FRAME.unpack_from(data)
    assert kind == FrameType.JOB
    assert wire.Job.unpack(data[wire.FRAME.size :]) == replace(JOB, version=wire.PROTOCOL)
    assert length == len(data) - wire.FRAME.size
    assert os.pread(fds[0], 7, 0) == b'"""The '
    os.close(fds[0])
    assert connection.hello.worker == "w0"
    connection.close()


async def test_chunks_come_from_the_ring_without_a_copy_and_then_the_stats(worker: Worker) -> None:
    connection = await connected(worker)
    worker.span(100, b"hello")
    worker.send(FrameType.SPAN, wire.CHECKPOINT.pack(2, 1024, True, True) + wire.SPAN.pack(7, 0))
    worker.send(FrameType.END, msgpack.packb({"total": 5, "stats": {"samples_in": 3, "later": 1}, "later": [1]}))
    chunk = await connection.receive()
    assert isinstance(chunk, Chunk)
    assert (bytes(chunk.data), chunk.checkpoint) == (b"hello", AT)
    worker.ring[100:105] = b"HELLO"
    assert bytes(chunk.data) == b"HELLO"  # the same memory
    await connection.consumed(5)
    assert (await connection.receive()) == Chunk(memoryview(b""), wire.Checkpoint(2, 1024, True, True))
    assert await connection.receive() == wire.End(5, wire.Stats(samples_in=3))
    connection.close()


async def test_data_frames_work_the_same_and_may_be_large(worker: Worker) -> None:
    connection = await connected(worker)
    data = os.urandom(wire.MAX_FRAME - wire.CHECKPOINT.size)
    sending = asyncio.to_thread(worker.send, FrameType.DATA, wire.CHECKPOINT.pack(*AT) + data)
    chunk, _ = await asyncio.gather(connection.receive(), sending)
    assert isinstance(chunk, Chunk)
    assert chunk.data == data
    connection.close()


@pytest.fixture
def remote_worker() -> Iterator[Worker]:
    """One that is reached by TCP, and has no memory to share."""
    worker = Worker()
    for end in (worker.gateway, worker.sock):
        end.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker.sock = socket.create_connection(listener.getsockname(), timeout=5)
        worker.gateway, _ = listener.accept()
    worker.gateway.setblocking(False)
    yield worker
    worker.close()


async def connected_by_tcp(worker: Worker) -> StreamConnection:
    worker.send(FrameType.HELLO, wire.Hello(worker="w0").pack())
    connection = StreamConnection(worker.gateway, 5, RING)
    await connection.start(JOB, None)
    await asyncio.to_thread(worker.read)
    return connection


async def test_large_and_small_frames_that_trickle_in_by_tcp_arrive_as_they_come(remote_worker: Worker) -> None:
    connection = await connected_by_tcp(remote_worker)
    bodies = [os.urandom(600_000), b"small", os.urandom(300_000), b""]

    async def trickle() -> None:
        for body in bodies:
            frame = wire.pack_frame(FrameType.DATA, wire.CHECKPOINT.pack(*AT) + body)
            for start in range(0, len(frame), 50_000):
                await asyncio.to_thread(remote_worker.sock.sendall, frame[start : start + 50_000])
                await asyncio.sleep(0.001)

    sending = asyncio.create_task(trickle())
    for body in bodies:
        chunk = await connection.receive()
        assert isinstance(chunk, Chunk)
        assert chunk.data == body
        await connection.consumed(len(body))
    await sending
    connection.close()


async def test_a_frame_that_breaks_off_by_tcp_is_a_lost_worker_at_once(remote_worker: Worker) -> None:
    connection = await connected_by_tcp(remote_worker)
    frame = wire.pack_frame(FrameType.DATA, wire.CHECKPOINT.pack(*AT) + bytes(600_000))
    remote_worker.sock.sendall(frame[:1000])
    receiving = asyncio.create_task(connection.receive())
    await asyncio.sleep(0.05)
    remote_worker.sock.close()
    async with asyncio.timeout(2):
        with pytest.raises(WorkerLost, match="without END"):
            await receiving
    connection.close()


async def test_what_is_handed_out_stays_as_it_is_after_close(worker: Worker) -> None:
    connection = await connected(worker)
    data = os.urandom(300_001)
    worker.span(4_000, data)
    chunk = await connection.receive()
    connection.close()
    worker.ring[:] = bytes(RING)
    assert isinstance(chunk, Chunk)
    assert chunk.data == data


async def test_a_chunk_that_is_kept_stays_as_it_is_while_the_ring_is_used_again(worker: Worker) -> None:
    connection = await connected(worker)
    data = os.urandom(300_001)
    worker.span(4_000, data)
    first = await connection.receive()
    connection.keep()
    assert worker.read() == wire.pack_frame(FrameType.ACK, wire.ACK.pack(len(data)))
    for turn in range(1, 4):
        more = os.urandom(300_001)
        worker.span(4_000, more)
        second = await connection.receive()
        assert isinstance(second, Chunk)
        assert second.data == more, f"turn {turn}"
        await connection.consumed(len(more))
    assert isinstance(first, Chunk)
    assert first.data == data
    connection.close()
    assert first.data == data


async def test_a_chunk_of_a_remote_worker_that_is_kept_stays_as_it_is(remote_worker: Worker) -> None:
    connection = await connected_by_tcp(remote_worker)
    for body in (b"first", b"other"):
        remote_worker.send(FrameType.DATA, wire.CHECKPOINT.pack(*AT) + body)
    first = await connection.receive()
    connection.keep()
    second = await connection.receive()
    assert isinstance(first, Chunk)
    assert isinstance(second, Chunk)
    assert (first.data, second.data) == (b"first", b"other")
    connection.close()


async def test_texts_of_a_failure_are_cut_and_made_safe(worker: Worker) -> None:
    connection = await connected(worker)
    payload = {"code": "sample_failed", "message": "a\x1b[31m" + "x" * 100_000, "key": "k\n" * 5000}
    worker.send(FrameType.FAIL, msgpack.packb(payload))
    failure = await connection.receive()
    assert isinstance(failure, wire.Failure)
    assert failure.message.startswith("a\\x1b[31mxx")
    assert max(len(failure.message), len(failure.key)) <= 4096
    connection.close()


@pytest.mark.parametrize("version", [None, wire.PROTOCOL - 1, wire.PROTOCOL + 1])
async def test_a_worker_of_another_version_is_refused_with_words(worker: Worker, version: int | None) -> None:
    payload = msgpack.packb({"worker": "w0"} | ({"version": version} if version is not None else {}))
    worker.send(FrameType.HELLO, payload)
    connection = StreamConnection(worker.gateway, 5, RING)
    with pytest.raises(WorkerLost, match=f"version {version or 1} of the worker protocol"):
        await connection.start(JOB, None)
    connection.close()


async def test_every_byte_is_acknowledged_before_the_gateway_waits(worker: Worker) -> None:
    connection = await connected(worker)
    worker.span(0, b"a" * 1000)
    await connection.receive()
    await connection.consumed(1000)
    waiting = asyncio.create_task(connection.receive())
    ack = await asyncio.to_thread(worker.read)
    assert ack == wire.pack_frame(FrameType.ACK, wire.ACK.pack(1000))
    worker.span(1000, b"b")
    await waiting
    connection.close()


async def test_a_full_ring_is_acknowledged_in_quarters(worker: Worker) -> None:
    connection = await connected(worker)
    for turn in range(8):
        worker.span(turn * (RING // 8), b"x" * (RING // 8))
    for _ in range(8):
        await connection.receive()
        await connection.consumed(RING // 8)
    acks = [wire.ACK.unpack_from(ack)[0] for ack in worker.read().split(wire.FRAME.pack(FrameType.ACK, 8))[1:]]
    assert acks == [RING // 4, RING // 2, RING * 3 // 4, RING]
    connection.close()


async def test_what_a_dead_worker_announced_is_still_delivered(worker: Worker) -> None:
    connection = await connected(worker)
    worker.span(0, b"last words")
    worker.sock.close()
    chunk = await connection.receive()
    assert isinstance(chunk, Chunk)
    assert chunk.data == b"last words"
    await connection.consumed(10)
    with pytest.raises(WorkerLost, match="w0 was lost"):
        await connection.receive()
    connection.close()


async def test_a_silent_worker_is_lost_after_the_progress_timeout(worker: Worker) -> None:
    connection = await connected(worker, patience=0.05)
    with pytest.raises(WorkerLost, match=r"finished no sample in 0\.05 s"):
        await connection.receive()
    connection.close()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        pytest.param(FrameType.SPAN, wire.CHECKPOINT.pack(*AT) + wire.SPAN.pack(RING, 1), id="behind the ring"),
        pytest.param(FrameType.SPAN, wire.CHECKPOINT.pack(*AT) + wire.SPAN.pack(2**64 - 1, 2), id="offset overflow"),
        pytest.param(FrameType.SPAN, b"short", id="short span"),
        pytest.param(FrameType.DATA, b"short", id="short data"),
        pytest.param(FrameType.JOB, b"", id="a job from a worker"),
        pytest.param(FrameType.HELLO, wire.Hello().pack(), id="second hello"),
        pytest.param(77, b"", id="unknown type"),
        pytest.param(FrameType.END, b"\xc1", id="no msgpack"),
        pytest.param(FrameType.END, msgpack.packb([1]), id="no map"),
        pytest.param(FrameType.FAIL, msgpack.packb({"nonsense": 1}), id="not a failure"),
        *(
            pytest.param(FrameType.END, msgpack.packb({"total": 5, "stats": {name: value}}), id=f"{name} {value!r:.12}")
            for name in ("samples_in", "function_seconds")
            for value in (math.nan, math.inf, -1, 2**64 - 1, "7", None, True, [], {})
        ),
        pytest.param(FrameType.END, msgpack.packb({"stats": {}}), id="no total"),
        pytest.param(FrameType.FAIL, msgpack.packb({"code": "x", "message": 5}), id="a message that is no text"),
    ],
)
async def test_a_worker_that_breaks_the_rules_is_lost(worker: Worker, kind: int, payload: bytes) -> None:
    connection = await connected(worker)
    worker.send(kind, payload)
    with pytest.raises(WorkerLost):
        await connection.receive()
    connection.close()


async def test_a_frame_that_is_too_large_is_refused_before_memory_is_taken_for_it(worker: Worker) -> None:
    connection = await connected(worker)
    worker.sock.sendall(wire.FRAME.pack(FrameType.DATA, 2**32 - 1))
    with pytest.raises(WorkerLost, match="4294967295"):
        await connection.receive()
    connection.close()


async def test_a_ring_that_could_shrink_under_us_is_refused(worker: Worker) -> None:
    descriptor = os.memfd_create("ring", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, RING)
    worker.hello(fds=[descriptor])
    os.close(descriptor)
    connection = StreamConnection(worker.gateway, 5, RING)
    with pytest.raises(WorkerLost, match="sealed"):
        await connection.start(JOB, None)
    connection.close()


@pytest.mark.parametrize("fds", [[], None], ids=["none", "smaller"])
async def test_a_ring_that_is_not_there_is_refused(worker: Worker, fds: list[int] | None) -> None:
    worker.hello(ring_size=RING * 2, fds=fds)
    connection = StreamConnection(worker.gateway, 5, RING)
    with pytest.raises(WorkerLost):
        await connection.start(JOB, None)
    connection.close()


async def test_no_descriptor_is_left_open_whatever_hello_brings(worker: Worker) -> None:
    before = open_descriptors()
    worker.hello(fds=[worker.ring_fd, worker.sock.fileno(), worker.sock.fileno()])
    connection = StreamConnection(worker.gateway, 5, RING)
    await connection.start(JOB, None)
    connection.close()
    assert open_descriptors() <= before


async def test_a_job_that_is_refused_says_why(worker: Worker) -> None:
    worker.send(FrameType.FAIL, wire.Failure("internal", "this runtime runs another transform").pack())
    connection = StreamConnection(worker.gateway, 5, RING)
    with pytest.raises(WorkerLost, match="another transform"):
        await connection.start(JOB, None)
    connection.close()


async def test_a_runtime_that_dies_while_we_wait_for_a_worker_is_lost(worker: Worker) -> None:
    connection = StreamConnection(worker.gateway, 5, RING)
    waiting = asyncio.create_task(connection.start(JOB, None))
    await asyncio.to_thread(worker.read)
    worker.sock.close()
    with pytest.raises(WorkerLost):
        await waiting
    connection.close()


async def test_a_worker_that_sends_without_a_pause_never_keeps_the_loop_from_others(worker: Worker) -> None:
    connection = await connected(worker)
    frame = wire.FRAME.pack(FrameType.SPAN, 30) + wire.CHECKPOINT.pack(*AT) + wire.SPAN.pack(0, 0)
    worker.sock.sendall(frame * 1000)
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    for _ in range(1000):
        await connection.receive()
    assert turns
    connection.close()


async def test_descriptors_that_a_worker_heaps_upon_us_are_given_back(worker: Worker) -> None:
    before = open_descriptors()
    payload = wire.Hello(worker="w0", ring_size=RING).pack()
    for byte in (wire.FRAME.pack(FrameType.HELLO, len(payload)) + payload)[:30]:
        socket.send_fds(worker.sock, [bytes((byte,))], [worker.ring_fd] * 4)
    connection = StreamConnection(worker.gateway, 5, RING)
    with pytest.raises(WorkerLost, match="descriptors"):
        await connection.start(JOB, None)
    connection.close()
    assert open_descriptors() <= before


@pytest.mark.parametrize("entries", [wire.MAX_ENVIRONMENT + 1, 4000])
async def test_an_environment_of_thousands_of_entries_is_refused(worker: Worker, entries: int) -> None:
    payload = wire.Hello(environment={str(number): "1" for number in range(entries)}).pack()
    worker.send(FrameType.HELLO, payload)
    connection = StreamConnection(worker.gateway, 5)
    with pytest.raises(WorkerLost, match="environment"):
        await connection.start(JOB, None)
    connection.close()


async def test_what_a_worker_says_of_its_environment_is_short_and_on_one_line(worker: Worker) -> None:
    worker.send(FrameType.HELLO, wire.Hello(environment={"a\nb": "c\x1b[2J\n" + "x" * 10_000}).pack())
    connection = StreamConnection(worker.gateway, 5)
    await connection.start(JOB, None)
    ((name, value),) = connection.hello.environment.items()
    assert (name, value[:8], len(value)) == ("a\\nb", "c\\x1b[2J", wire.MAX_FACT)
    connection.close()
