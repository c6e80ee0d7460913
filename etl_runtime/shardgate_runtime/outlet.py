"""Where output bytes are put for the gateway: a shared-memory ring on one machine, frames of bytes elsewhere.

Both are written the same way: `window` is memory that continues what was written and not yet announced; when it is
empty, everything must be announced before there is room again.

The ring is a memfd that comes to the gateway with HELLO. A byte's place is its number, counted from the start of the
connection, modulo the size of the ring; so an ACK, which counts consumed bytes, says without further ado what may be
overwritten. A connection starts with an empty ring. If it ends before the gateway has consumed everything, the gateway
may still be sending from the memory; then that memfd is left to the gateway, and the next job gets a new one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from shardgate import wire

if TYPE_CHECKING:
    from shardgate_runtime.connection import Connection

DATA_BYTES = 1 << 20
"""Payload of a DATA frame at most, but for what is lent to it: twice as much."""


class Outlet(ABC):
    """Memory for output, and the way to tell the gateway of it.

    Attributes:
        capacity: Bytes that it holds. written: bytes written so far. announced: how many of them the gateway knows of.
    """

    def __init__(self, connection: Connection, capacity: int) -> None:
        self.connection = connection
        self.capacity = capacity
        self.written = 0
        self.announced = 0

    @property
    @abstractmethod
    def room(self) -> int:
        """Bytes that can be written before something has to be announced or awaited."""

    @abstractmethod
    def window(self) -> memoryview:
        """Room right behind the unannounced bytes; empty if these have to be announced first."""

    def lend(self, data: memoryview) -> bool:  # noqa: ARG002 - most outlets copy
        """Take bytes without copying them; nobody may touch them until they are announced. False: copy them."""
        return False

    @abstractmethod
    def announce(self, end: int, checkpoint: wire.Checkpoint) -> None:
        """Tell the gateway of the bytes up to number `end`, or of none, which still tells the checkpoint."""

    def wait(self) -> None:
        """Wait for the gateway to consume something. Everything written must be announced, or it would be forever."""
        self.connection.wait()


class DataOutlet(Outlet):
    """Bytes in DATA frames; the socket's buffers are what limits those on their way.

    What is large enough to fill a frame is sent from where it lies: copying it would cost as much as sending it.
    """

    def __init__(self, connection: Connection, capacity: int = DATA_BYTES) -> None:
        super().__init__(connection, capacity)
        self._buffer = memoryview(bytearray(capacity))
        self._first = 0
        """Number of the buffer's first byte."""
        self._lent: list[tuple[int, memoryview]] = []
        """Unannounced bytes that are not in the buffer, and at which place of it they come."""
        self._lent_bytes = 0

    @property
    def room(self) -> int:
        return self.capacity - self._used

    def window(self) -> memoryview:
        return self._buffer[self._used :]

    def lend(self, data: memoryview) -> bool:
        if len(data) * 2 < self.capacity or self._lent_bytes + len(data) > 2 * self.capacity:
            return False
        self._lent.append((self._used, data))
        self._lent_bytes += len(data)
        self.written += len(data)
        return True

    def announce(self, end: int, checkpoint: wire.Checkpoint) -> None:
        lent = self._lent if end == self.written else []  # it belongs to the sample that is being written
        parts, place = [], self.announced - self._first
        for at, data in lent:
            parts += [self._buffer[place:at], data]
            place = at
        parts.append(self._buffer[place : end - self._first - sum(len(data) for _, data in lent)])
        self.connection.send(wire.FrameType.DATA, wire.CHECKPOINT.pack(*checkpoint), *filter(len, parts))
        self.announced = end
        if end == self.written:
            self._first = end
            self._lent, self._lent_bytes = [], 0

    @property
    def _used(self) -> int:
        """Bytes of the buffer."""
        return self.written - self._first - self._lent_bytes


class Ring:
    """Shared memory between one worker and the gateway."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("shardgate-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # The gateway maps it, and must not be killed by SIGBUS because someone here made it shorter.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.memory = memoryview(mmap.mmap(self.fd, size))

    def close(self) -> None:
        """Leave the memory to those who still map it; here it is unmapped when the last view of it goes."""
        os.close(self.fd)


class RingOutlet(Outlet):
    """Bytes in a ring, announced by SPAN frames."""

    def __init__(self, connection: Connection, ring: Ring) -> None:
        super().__init__(connection, ring.size)
        self.ring = ring

    @property
    def room(self) -> int:
        return self.capacity - (self.written - self.connection.acked)

    def window(self) -> memoryview:
        place = self.written % self.capacity
        if place == 0 and self.written > self.announced:
            return self.ring.memory[:0]  # spans are contiguous, so one ends where the ring does
        return self.ring.memory[place : min(place + self.room, self.capacity)]

    def announce(self, end: int, checkpoint: wire.Checkpoint) -> None:
        span = wire.SPAN.pack(self.announced % self.capacity, end - self.announced)
        self.connection.send(wire.FrameType.SPAN, wire.CHECKPOINT.pack(*checkpoint), span)
        self.announced = end
