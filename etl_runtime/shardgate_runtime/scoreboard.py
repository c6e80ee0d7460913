"""What every worker is doing, in memory that parent and workers share.

A worker that is killed can't say which sample it was at; the scoreboard can. Each worker has a slot that it alone
writes and the parent reads; a table of deaths is written by the parent and read by whichever worker gets the next
attempt at the same request. There are no locks: every field has one writer, and a reader that catches a slot in
mid-change at worst misses one tick of the watchdog or reports a death without its sample.

The memory is a file of the run folder. Where the kernel kills a whole container for the memory that one sample took,
parent and all, the file is still there when the container starts again, and tells what every worker was doing.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from enum import IntEnum
from typing import TYPE_CHECKING

from shardgate.wire import Death
from shardgate_runtime.clock import clock

if TYPE_CHECKING:
    from pathlib import Path

STATE = struct.Struct("<iId")
"""pid, state, monotonic time of the last change of state."""
REQUEST = struct.Struct("<256p")
SAMPLE = struct.Struct("<qd256p")
"""Index of the running sample or -1, monotonic time at which it began, or its negative when the last one ended, key."""
NOTE = struct.Struct("<4096s")
"""Why setup() failed, as text."""

REQUEST_AT = STATE.size
SAMPLE_AT = REQUEST_AT + REQUEST.size
NOTE_AT = SAMPLE_AT + SAMPLE.size
SLOT_BYTES = NOTE_AT + NOTE.size

DEATH = struct.Struct("<?q?256p256p128p")
"""valid, sample or -1, deterministic, request, key, reason."""
DEATHS = 64
DEATH_WAIT = 0.25
"""Seconds a worker gives the parent to notice that the worker that had the same request before is dead."""
KILLED_TOGETHER = "killed with its whole container (out of memory?)"


class State(IntEnum):
    EMPTY = 0
    STARTING = 1
    IDLE = 2
    BUSY = 3


class Slot:
    """One worker's part of the scoreboard."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self._memory = memory
        self._offset = offset

    def set_state(self, state: State, pid: int | None = None) -> None:
        STATE.pack_into(self._memory, self._offset, os.getpid() if pid is None else pid, state, clock.monotonic())

    def state(self) -> tuple[int, State, float]:
        """Pid, state, and the monotonic time since which."""
        pid, state, since = STATE.unpack_from(self._memory, self._offset)
        return pid, State(state), since

    def begin_request(self, request_id: str) -> None:
        REQUEST.pack_into(self._memory, self._offset + REQUEST_AT, request_id.encode())
        self.end_sample()
        self.set_state(State.BUSY)

    def request(self) -> str:
        (request_id,) = REQUEST.unpack_from(self._memory, self._offset + REQUEST_AT)
        return str(request_id, errors="replace")

    def begin_sample(self, index: int, key: str) -> None:
        name = key.encode(errors="backslashreplace")
        SAMPLE.pack_into(self._memory, self._offset + SAMPLE_AT, index, clock.monotonic(), name)

    def end_sample(self) -> None:
        SAMPLE.pack_into(self._memory, self._offset + SAMPLE_AT, -1, -clock.monotonic(), b"")

    def sample(self) -> tuple[int | None, float, str]:
        """Index, begin and key of the running sample, or None, 0.0 and ""."""
        index, began, key = SAMPLE.unpack_from(self._memory, self._offset + SAMPLE_AT)
        return (index if index >= 0 else None), max(began, 0.0), str(key, errors="replace")

    def sign_of_life(self) -> tuple[float, float]:
        """Changes whenever the worker's state does, and whenever a sample begins or ends."""
        _, _, since = STATE.unpack_from(self._memory, self._offset)
        _, began, _ = SAMPLE.unpack_from(self._memory, self._offset + SAMPLE_AT)
        return since, began

    def write_note(self, text: str) -> None:
        NOTE.pack_into(self._memory, self._offset + NOTE_AT, text.encode()[-NOTE.size :])

    def note(self) -> str:
        (text,) = NOTE.unpack_from(self._memory, self._offset + NOTE_AT)
        return str(text.rstrip(b"\0"), errors="replace")


class Scoreboard:
    """Slots of all workers and the table of recent deaths. Created before the first fork.

    Args:
        workers: How many slots.
        file: Holds the memory; what a runtime that was killed as a whole left in it becomes deaths.
    """

    def __init__(self, workers: int, file: Path | None = None) -> None:
        self._deaths_at = workers * SLOT_BYTES
        size = self._deaths_at + DEATHS * DEATH.size
        self._memory = _map_file(file, size) if file else mmap.mmap(-1, size)
        self.slots = [Slot(self._memory, number * SLOT_BYTES) for number in range(workers)]
        self._next_death = next((at for at in range(DEATHS) if not self._memory[self._deaths_at + at * DEATH.size]), 0)
        self._bury_all()

    def _bury_all(self) -> None:
        for slot in self.slots:
            _, state, _ = slot.state()
            sample, _, key = slot.sample()
            if state is State.BUSY and sample is not None:
                self.record_death(slot.request(), Death(sample, key, KILLED_TOGETHER, deterministic=False))
            slot.end_sample()
            slot.set_state(State.EMPTY, 0)

    def record_death(self, request_id: str, death: Death) -> None:
        """Remember a death until the request's next attempt asks for it, or 64 more have happened. Parent only."""
        index = -1 if death.sample is None else death.sample
        texts = tuple(text.encode(errors="backslashreplace") for text in (request_id, death.key, death.reason))
        at = self._deaths_at + self._next_death * DEATH.size
        DEATH.pack_into(self._memory, at, True, index, death.deterministic, *texts)
        self._next_death = (self._next_death + 1) % DEATHS

    def take_death(self, request_id: str, own: Slot) -> Death | None:
        """The death that interrupted this request, said once.

        The gateway may be quicker than the parent: it sees the connection close while the process is still being
        torn down. So as long as another slot claims to work for the same request, the record may be about to come.
        """
        deadline = clock.monotonic() + DEATH_WAIT
        while (death := self._find_death(request_id)) is None:
            claimed = any(
                slot is not own and slot.state()[1] is State.BUSY and slot.request() == request_id
                for slot in self.slots
            )
            if not claimed or clock.monotonic() > deadline:
                return None
            time.sleep(0.005)
        return death

    def _find_death(self, request_id: str) -> Death | None:
        name = request_id.encode()[:255]
        for number in range(DEATHS):
            at = self._deaths_at + number * DEATH.size
            if not self._memory[at]:
                continue
            _, index, deterministic, request, key, reason = DEATH.unpack_from(self._memory, at)
            if request == name:
                self._memory[at] = 0
                sample = index if index >= 0 else None
                return Death(sample, str(key, errors="replace"), str(reason, errors="replace"), deterministic)
        return None


def _map_file(file: Path, size: int) -> mmap.mmap:
    """The file's bytes, or zeros where it has another size, as one of another number of workers has.

    Its blocks are allocated first: on a full disk, the touch of a mapped page without one would be SIGBUS. Where that
    fails, it is memory that ends with this process and its workers.
    """
    try:
        with file.open("a+b") as stream:
            if stream.seek(0, os.SEEK_END) != size:
                stream.truncate(0)
            os.posix_fallocate(stream.fileno(), 0, size)
            return mmap.mmap(stream.fileno(), size)
    except OSError as error:
        print(f"the scoreboard is kept in memory: {error}", file=sys.stderr, flush=True)
        return mmap.mmap(-1, size)
