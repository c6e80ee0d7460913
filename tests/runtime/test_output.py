from __future__ import annotations

import mmap
import os
import socket
import threading
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_process import Conversation

from shardgate import wire
from shardgate_runtime.connection import Connection
from shardgate_runtime.failures import ReaderLeft
from shardgate_runtime.outlet import DATA_BYTES, DataOutlet, Outlet, Ring, RingOutlet
from shardgate_runtime.output import BATCH_BYTES, Output, copy_array

RING_BYTES = 64 << 10
FEW_BYTES = 8 << 10
"""Less than many of the arrays have, which then are sent from where they lie."""

arrays = st.tuples(
    st.sampled_from(["f4", "u1", "i8", "f2", "u2", "?", "c8"]),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
).map(lambda a: np.arange(np.prod(a[1])).astype(a[0]).reshape(a[1]).transpose(a[2].sample(range(len(a[1])), len(a[1]))))
samples_strategy = st.lists(st.lists(st.one_of(st.binary(max_size=5000), arrays), max_size=4), max_size=12)


def as_bytes(piece: bytes | np.ndarray) -> bytes:
    return piece if isinstance(piece, bytes) else piece.tobytes("A")


class Pair:
    """A worker's outlet and the gateway's end, which reads in a thread of its own."""

    def __init__(self, *, ring: bool, capacity: int = DATA_BYTES) -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(20)
        self.connection = Connection(ours)
        self.gateway = Conversation(theirs)
        self.ring = Ring(RING_BYTES) if ring else None
        self.outlet: Outlet = (
            RingOutlet(self.connection, self.ring) if self.ring else DataOutlet(self.connection, capacity)
        )
        if self.ring:
            self.gateway.hello = wire.Hello(ring_size=RING_BYTES)
            self.gateway.ring = mmap.mmap(self.ring.fd, RING_BYTES, prot=mmap.PROT_READ)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.gateway.drain)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.send(wire.FrameType.END, wire.End(self.outlet.written).pack())
        self.thread.join()
        self.connection.close()
        self.gateway.close()
        if self.ring:
            self.ring.close()


@given(samples_strategy, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_every_byte_arrives_once_and_every_checkpoint_is_true(samples: list, ring: bool, careful: bool) -> None:
    expected = [b"".join(map(as_bytes, pieces)) for pieces in samples]
    whole = b"".join(expected)
    with Pair(ring=ring, capacity=FEW_BYTES) as pair:
        output = Output(pair.outlet, wire.Checkpoint(), careful=careful)
        for number, pieces in enumerate(samples):
            output.write(pieces)
            output.end_sample(wire.Checkpoint(number + 1, (number + 1) * 512))
        output.write([b"the end"])
        output.flush()
        assert output.total == len(whole) + 7
    assert bytes(pair.gateway.output) == whole + b"the end"
    ends = np.cumsum([0, *map(len, expected)])
    for total, checkpoint in pair.gateway.checkpoints:
        assert checkpoint.next_input == checkpoint.next_sample * 512
        if checkpoint.whole:
            assert ends[checkpoint.next_sample] == total
        else:
            assert total > ends[checkpoint.next_sample]
            assert checkpoint.next_sample == len(samples) or total <= ends[checkpoint.next_sample + 1]
    if careful:
        wholes = [checkpoint.next_sample for _, checkpoint in pair.gateway.checkpoints if checkpoint.whole]
        assert sorted(set(wholes)) == list(range(1, len(samples) + 1))


@pytest.mark.parametrize("ring", [True, False])
def test_the_first_sample_goes_out_at_once_and_small_ones_go_together(ring: bool) -> None:
    with Pair(ring=ring) as pair:
        output = Output(pair.outlet, wire.Checkpoint(), careful=False)
        for number in range(1000):
            output.write([b"x" * 512])
            output.end_sample(wire.Checkpoint(number + 1, 0))
        output.flush()
    first_total, first = pair.gateway.checkpoints[0]
    assert (first_total, first.next_sample) == (512, 1)
    assert len(pair.gateway.checkpoints) < 500
    assert pair.gateway.total == 512_000


def test_a_batch_is_announced_when_it_is_big_enough() -> None:
    with Pair(ring=False) as pair:
        output = Output(pair.outlet, wire.Checkpoint(), careful=False)
        for number in range(3):
            output.write([bytes(BATCH_BYTES)])
            output.end_sample(wire.Checkpoint(number + 1, 0))
        assert pair.outlet.announced == 3 * BATCH_BYTES


def test_memory_that_the_reader_has_not_consumed_is_never_overwritten() -> None:
    ours, theirs = socket.socketpair()
    ring = Ring(RING_BYTES)
    connection = Connection(ours)
    outlet = RingOutlet(connection, ring)
    output = Output(outlet, wire.Checkpoint(), careful=False)
    for number in range(4):
        output.write([bytes([number]) * (RING_BYTES // 4)])
        output.end_sample(wire.Checkpoint(number + 1, 0))
    blocked = threading.Thread(target=output.write, args=([b"n" * 100],))
    blocked.start()
    blocked.join(0.3)
    assert blocked.is_alive()
    assert bytes(ring.memory[:5]) == bytes(5)
    theirs.sendall(wire.pack_frame(wire.FrameType.ACK, wire.ACK.pack(100)))
    blocked.join(10)
    assert not blocked.is_alive()
    assert bytes(ring.memory[:101]) == b"n" * 100 + b"\0"
    connection.close()
    theirs.close()
    ring.close()


def write_forever(output: Output) -> None:
    while True:
        output.write([bytes(RING_BYTES)])
        output.end_sample(wire.Checkpoint())


@pytest.mark.parametrize("ring", [True, False])
def test_a_reader_that_leaves_ends_the_wait_for_room(ring: bool) -> None:
    pair = Pair(ring=ring)
    output = Output(pair.outlet, wire.Checkpoint(), careful=False)
    threading.Timer(0.1, pair.gateway.close).start()
    with pytest.raises(ReaderLeft):
        write_forever(output)
    pair.connection.close()
    if pair.ring:
        pair.ring.close()


def test_the_ring_cannot_be_made_shorter_under_the_gateways_feet() -> None:
    ring = Ring(RING_BYTES)
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)
    ring.close()


@pytest.mark.parametrize("torch", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "?", "c8", ">f4"])
def test_arrays_are_copied_in_order_with_and_without_torch(
    torch: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import torch as _  # noqa: F401

    if not torch:
        monkeypatch.delitem(sys.modules, "torch")
    base = np.arange(60).astype(dtype).reshape(3, 4, 5)
    frozen = base.copy()
    frozen.flags.writeable = False
    for source in (base, base.transpose(2, 0, 1), base[::-1, ::2], frozen.T, base[:, 1:3, ::-1]):
        target = np.empty(source.shape, source.dtype)
        copy_array(target, source)
        assert np.array_equal(target, source)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_sent_before_its_sample_ends_so_that_the_next_one_may_overwrite_it(order: str) -> None:
    array = np.zeros((3, FEW_BYTES), "uint8", order)  # type: ignore[call-overload]
    with Pair(ring=False, capacity=FEW_BYTES) as pair:
        output = Output(pair.outlet, wire.Checkpoint(), careful=False)
        for number in range(5):
            array.fill(number)
            output.write([b"before", array, b"after"])
            output.end_sample(wire.Checkpoint(number + 1, 512))
        output.flush()
    expected = b"".join(b"before" + bytes([number]) * array.nbytes + b"after" for number in range(5))
    assert bytes(pair.gateway.output) == expected
