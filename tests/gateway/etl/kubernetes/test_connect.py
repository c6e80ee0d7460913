"""Jobs over TCP, against a worker that is played by the test."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shardgate import wire
from shardgate.wire import FrameType
from shardgate_gateway.errors import WorkerLost
from shardgate_gateway.etl.kubernetes.connect import KEEPALIVE, connect, open_job
from shardgate_gateway.etl.kubernetes.dispatch import Dispatcher
from shardgate_gateway.etl.kubernetes.routing import Endpoint, Routes
from shardgate_gateway.etl.runner import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.etl.kubernetes.connect import PodConnection
    from shardgate_gateway.etl.kubernetes.dispatch import Place

JOB = wire.Job("request", "t-1", "gcp://bucket", "key", "etag", url="http://gateway/key", token="secret", ring=True)
SECONDS = 30


@pytest.fixture
def pod() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        yield listener


def dispatcher_for(listener: socket.socket) -> Dispatcher:
    dispatcher = Dispatcher("t-1", Routes(), 10)
    dispatcher.update([Endpoint("pod", *listener.getsockname())])
    return dispatcher


async def open_at(place: Place) -> PodConnection:
    return await open_job(place, JOB, SECONDS)


def send(worker: socket.socket, kind: FrameType, payload: bytes) -> None:
    worker.sendall(wire.pack_frame(kind, payload))


def take_job(listener: socket.socket) -> tuple[socket.socket, wire.Job]:
    worker, _ = listener.accept()
    worker.settimeout(SECONDS)
    kind, length = wire.FRAME.unpack(worker.recv(wire.FRAME.size, socket.MSG_WAITALL))
    assert kind == FrameType.JOB
    return worker, wire.Job.unpack(worker.recv(length, socket.MSG_WAITALL))


def data(sample: int, payload: bytes) -> bytes:
    return wire.CHECKPOINT.pack(*wire.Checkpoint(sample, 512 * sample)) + payload


async def test_a_job_goes_to_the_pod_and_its_frames_of_any_size_come_back(pod: socket.socket) -> None:
    payloads = [os.urandom(size) for size in (0, 1, 70_000, 3_000_000, 5, 1_000_000)]

    def work() -> wire.Job:
        worker, job = take_job(pod)
        with worker:
            send(worker, FrameType.HELLO, wire.Hello(worker="pod/0").pack())
            for number, payload in enumerate(payloads):
                send(worker, FrameType.DATA, data(number, payload))
            send(worker, FrameType.END, wire.End(0, wire.Stats(samples_in=6)).pack())
        return job

    dispatcher = dispatcher_for(pod)
    working = asyncio.create_task(asyncio.to_thread(work))
    connection = await dispatcher.connect(open_at)
    assert dispatcher.demand == 1
    for number, payload in enumerate(payloads):
        chunk = await connection.receive()
        assert isinstance(chunk, Chunk)
        assert chunk.data == payload
        assert chunk.checkpoint == wire.Checkpoint(number, 512 * number, whole=True)
        await connection.consumed(len(payload))
    assert await connection.receive() == wire.End(0, wire.Stats(samples_in=6))
    job = await working
    assert (job.url, job.token, job.ring) == (JOB.url, JOB.token, False)
    connection.close()
    assert dispatcher.demand == 0


async def test_a_chunk_stays_readable_when_its_worker_is_given_up(pod: socket.socket) -> None:
    def work() -> socket.socket:
        worker, _ = take_job(pod)
        send(worker, FrameType.HELLO, wire.Hello().pack())
        send(worker, FrameType.DATA, data(1, b"first"))
        send(worker, FrameType.DATA, data(2, b"other"))
        return worker

    working = asyncio.create_task(asyncio.to_thread(work))
    connection = await dispatcher_for(pod).connect(open_at)
    chunk = await connection.receive()
    assert isinstance(chunk, Chunk)
    connection.close()
    assert bytes(chunk.data) == b"first"
    (await working).close()


async def test_a_worker_that_is_lost_in_the_middle_gives_its_place_back_when_it_is_closed(pod: socket.socket) -> None:
    def work() -> None:
        worker, _ = take_job(pod)
        with worker:
            send(worker, FrameType.HELLO, wire.Hello(worker="pod/0").pack())
            worker.sendall(wire.FRAME.pack(FrameType.DATA, 1000) + b"not all of it")

    dispatcher = dispatcher_for(pod)
    working = asyncio.create_task(asyncio.to_thread(work))
    connection = await dispatcher.connect(open_at)
    with pytest.raises(WorkerLost, match="pod/0"):
        await connection.receive()
    await working
    connection.close()
    assert dispatcher.demand == 0


async def test_a_pod_that_refuses_says_so_at_once_and_one_that_is_silent_after_a_second(pod: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await connect("127.0.0.1", port)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        taken = [socket.socket() for _ in range(8)]
        for one in taken:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await connect(*deaf.getsockname())
        assert time.monotonic() - began < SECONDS
        for one in taken:
            one.close()


async def test_a_dead_machine_is_found_by_the_kernel(pod: socket.socket) -> None:
    with await connect(*pod.getsockname()) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert {option: sock.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE} == KEEPALIVE
        silence = KEEPALIVE[socket.TCP_KEEPIDLE] + KEEPALIVE[socket.TCP_KEEPINTVL] * KEEPALIVE[socket.TCP_KEEPCNT]
        assert silence <= 4
