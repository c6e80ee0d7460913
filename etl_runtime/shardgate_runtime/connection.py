"""One conversation with the gateway: a job comes, frames go, and now and then an ACK tells how far the gateway is.

The socket is blocking, for a worker has nothing else to do than its job. Between samples `poll` looks, without waiting,
whether the gateway is still there; so a reader that leaves frees its worker within a sample.

After END or FAIL the worker does not close first. Closing with an unread ACK in the socket would reset the connection
and could destroy frames that the gateway has not read yet; so the gateway closes, and `linger` waits for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate.records import RecordError
from shardgate_runtime.clock import clock
from shardgate_runtime.failures import ReaderLeft
from shardgate_runtime.http_get import keep_alive

if TYPE_CHECKING:
    from collections.abc import Sequence

JOB_SECONDS = 10.0
"""For a gateway that has connected to say what it wants."""
LINGER_SECONDS = 5.0
"""For a gateway that has got END to close the connection."""
RECEIVE_BYTES = 64 << 10
MAX_FDS = 4
UNACKNOWLEDGED_MILLISECONDS = 30_000
"""For a machine that died with our bytes on their way to it. A gateway that lives takes them, or gives us up sooner."""


class JobRefused(Exception):
    """What came first is no job that can be done."""


class Connection:
    """Frames in both directions.

    Attributes:
        acked: Bytes that the gateway has consumed since the start of the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._received = bytearray()
        self.acked = 0
        self.local = sock.family == socket.AF_UNIX
        if not self.local:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLISECONDS)

    def receive_job(self) -> tuple[wire.Job, int | None]:
        """The job, and the file descriptor that came with it.

        Raises:
            ReaderLeft: The gateway left, or did not send a job in time.
            JobRefused: What came is no job that this version understands.
        """
        fds: list[int] = []
        self._socket.settimeout(JOB_SECONDS)
        try:
            while (frame := self._next_frame()) is None:
                fds += self._receive_with_fds()
            job = _job_in(*frame)
            self._socket.settimeout(None)
            return job, (fds.pop(0) if fds else None)
        except OSError as error:
            raise ReaderLeft(str(error)) from error
        finally:
            for fd in fds:
                os.close(fd)

    def refuse(self, failure: wire.Failure) -> None:
        """Send FAIL, where anybody still reads."""
        with contextlib.suppress(ReaderLeft):
            self.send(wire.FrameType.FAIL, failure.pack())
            self.linger()

    def send(self, kind: wire.FrameType, *parts: bytes | memoryview, fds: Sequence[int] = ()) -> None:
        """Send one frame, waiting for as long as the gateway takes no more."""
        head = wire.FRAME.pack(kind, sum(len(part) for part in parts))
        try:
            if fds:
                data = b"".join((head, *parts))
                sent = socket.send_fds(self._socket, [data], list(fds))
                if sent < len(data):
                    self._socket.sendall(data[sent:])
            elif sum(len(part) for part in parts) < RECEIVE_BYTES:
                self._socket.sendall(b"".join((head, *parts)))
            else:
                self._send_together(head, *parts)
        except OSError as error:
            raise ReaderLeft(str(error)) from error

    def _send_together(self, *parts: bytes | memoryview) -> None:
        """Send without joining the parts, and without a packet of its own for each."""
        sent = self._socket.sendmsg(parts)
        for part in parts:
            if sent < len(part):
                self._socket.sendall(memoryview(part)[sent:])
            sent = max(sent - len(part), 0)

    def poll(self) -> None:
        """Take the ACKs that are there, without waiting.

        Raises:
            ReaderLeft: The gateway closed the connection.
        """
        try:
            data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise ReaderLeft(str(error)) from error
        self._take(data)

    def wait(self) -> None:
        """Wait for an ACK.

        Raises:
            ReaderLeft: The gateway closed the connection.
        """
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise ReaderLeft(str(error)) from error
        self._take(data)

    def linger(self) -> None:
        """Wait until the gateway closes the connection, which says that it has read everything; not forever."""
        deadline = clock.monotonic() + LINGER_SECONDS
        try:
            while (left := deadline - clock.monotonic()) > 0:
                self._socket.settimeout(left)
                self.wait()
        except ReaderLeft:
            return

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _take(self, data: bytes) -> None:
        if not data:
            raise ReaderLeft("the gateway closed the connection")
        self._received += data
        while (frame := self._next_frame()) is not None:
            kind, payload = frame
            if kind != wire.FrameType.ACK:
                raise ReaderLeft(f"frame {kind} came instead of an ACK")
            (self.acked,) = wire.ACK.unpack(payload)

    def _next_frame(self) -> tuple[int, bytes] | None:
        if len(self._received) < wire.FRAME.size:
            return None
        kind, length = wire.FRAME.unpack_from(self._received)
        if length > wire.MAX_FRAME:
            raise ReaderLeft(f"a frame of {length} bytes is announced")
        end = wire.FRAME.size + length
        if len(self._received) < end:
            return None
        payload = bytes(self._received[wire.FRAME.size : end])
        del self._received[:end]
        return kind, payload

    def _receive_with_fds(self) -> list[int]:
        data, fds, _, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, MAX_FDS)
        if not data:
            raise ReaderLeft("the gateway closed the connection")
        self._received += data
        return fds


def _job_in(kind: int, payload: bytes) -> wire.Job:
    """The job in a frame that anybody who reaches the port may have sent."""
    if kind != wire.FrameType.JOB:
        raise JobRefused(f"frame {kind} came instead of a job")
    try:
        job = wire.Job.unpack(payload)
    except RecordError as error:
        raise JobRefused(f"the job can't be read: {error}") from error
    if problem := wire.protocol_problem(job.version):
        raise JobRefused(problem)
    return job
