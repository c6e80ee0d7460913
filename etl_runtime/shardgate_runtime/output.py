"""The output of a shard: samples in, announced batches out.

Small samples are announced together, for a frame costs as much as a small sample, but no byte waits longer than the
sample that follows it: a batch goes out when 256 KiB have gathered or 10 ms have passed. A sample that does not fit the
room there is goes out in parts, the whole samples before it first, so that every frame holds either whole samples or
bytes of a single one.

Arrays are copied once, from where the function left them to where the gateway sends from; a transposed array is
put in order by that same copy (torch needs 0.05 ms for 602 KB, numpy 0.12). A socket copies anyhow, so into one a large
array that is in order goes from where it lies, at the end of its sample.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shardgate_runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardgate.wire import Checkpoint
    from shardgate_runtime.outlet import Outlet
    from shardgate_runtime.tar_writer import Piece

BATCH_BYTES = 1 << 20
BATCH_SECONDS = 0.010


class Output:
    """Writes into an outlet.

    Args:
        start: The checkpoint that the job begins at.
        careful: Announce every sample by itself.
    """

    def __init__(self, outlet: Outlet, start: Checkpoint, *, careful: bool) -> None:
        self._outlet = outlet
        self._careful = careful
        self._checkpoint = start
        """Holds for the bytes up to number `_whole`."""
        self._whole = 0
        self._announced_at = float("-inf")
        self._lent = False
        """Memory of the current sample is to be sent from where it lies: the next one may write over it."""

    @property
    def total(self) -> int:
        """Bytes written."""
        return self._outlet.written

    def write(self, pieces: Sequence[Piece]) -> None:
        """Append to the current sample."""
        size = sum(piece.nbytes if isinstance(piece, np.ndarray) else len(piece) for piece in pieces)
        self._make_room(size)
        for piece in pieces:
            if not isinstance(piece, np.ndarray):
                self._write_bytes(memoryview(piece))
            elif not (self._lend(piece) or self._write_array(piece)):
                self._write_bytes(memoryview(piece.tobytes("A")))

    def end_sample(self, checkpoint: Checkpoint) -> None:
        """A sample is written; `checkpoint` says where to go on, and whether another worker may."""
        if not checkpoint.whole and self._checkpoint.whole and self._whole > self._outlet.announced:
            self._outlet.announce(self._whole, self._checkpoint)  # the last one at which another worker may begin
        self._whole = self._outlet.written
        self._checkpoint = checkpoint
        now = clock.perf_counter()
        due = now - self._announced_at >= BATCH_SECONDS or self._whole - self._outlet.announced >= BATCH_BYTES
        if due or self._careful or self._lent:
            self._outlet.announce(self._whole, checkpoint)
            self._announced_at = now
            self._lent = False

    def flush(self) -> None:
        """Announce everything; what is not a whole sample goes as a part."""
        if self._whole > self._outlet.announced:
            self._outlet.announce(self._whole, self._checkpoint)
        if self._outlet.written > self._outlet.announced:
            self._outlet.announce(self._outlet.written, self._checkpoint._replace(whole=False))

    def _make_room(self, size: int) -> None:
        """Rather wait now than cut a sample in two because the gateway is a little behind."""
        wanted = min(size, self._outlet.capacity // 2)
        while self._outlet.room < wanted:
            self._wait()

    def _wait(self) -> None:
        if self._outlet.written > self._outlet.announced:
            self.flush()
        else:
            self._outlet.wait()

    def _write_bytes(self, data: memoryview) -> None:
        while data:
            window = self._window()
            count = min(len(window), len(data))
            window[:count] = data[:count]
            self._outlet.written += count
            data = data[count:]

    def _window(self) -> memoryview:
        while not (window := self._outlet.window()):
            self._wait()
        return window

    def _lend(self, array: np.ndarray[Any, Any]) -> bool:
        """Have an array sent from where it lies; False if it must be copied, for it is small or not in order."""
        source = array.T if array.flags.fnc else array
        if not source.flags.c_contiguous or not self._outlet.lend(source.reshape(-1).view(np.uint8).data):
            return False
        self._lent = True
        return True

    def _write_array(self, array: np.ndarray[Any, Any]) -> bool:
        """Copy an array in one go; False if the room or the array does not allow it."""
        window = self._window()
        if len(window) < array.nbytes:
            return False
        source = array.T if array.flags.fnc else array
        target = np.frombuffer(window, array.dtype, array.size).reshape(source.shape)
        copy_array(target, source)
        self._outlet.written += array.nbytes
        return True


def copy_array(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """Copy into C-ordered memory: a strided source by torch, where that is loaded and can."""
    torch: Any = sys.modules.get("torch")
    if torch is None or source.flags.c_contiguous or not target.flags.aligned or not _torch_takes(source):
        np.copyto(target, source)
    else:
        torch.from_numpy(target).copy_(torch.from_numpy(source))


def _torch_takes(array: np.ndarray[Any, Any]) -> bool:
    """It knows no negative strides, warns about read-only arrays, and has not all of numpy's types."""
    return (
        array.dtype.isnative and array.dtype.char in "fdebBhil?" and array.flags.writeable and min(array.strides) >= 0
    )
