"""Same request, same bytes: from the start, from any checkpoint, from another worker, through ring or frames."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import Runtime, tar_of

if TYPE_CHECKING:
    from collections.abc import Callable

RING = 64 << 10


def scramble(sample: dict[str, Any], args: str) -> Any:
    """Results of all shapes and sizes, all from the global generators."""
    import random

    import numpy as np
    import torch

    kind = random.choice(["none", "small", "list", "big", "huge"])
    if kind == "none":
        return None
    noise = np.random.rand(5)  # noqa: NPY002 - user code has it
    if kind == "small":
        return {"txt": f"{random.random()} {args}", "npy": noise}
    if kind == "list":
        return [{"npy": torch.rand(3).numpy(), "txt": str({"a", "b", "c"})} for _ in range(3)]
    size = 20 if kind == "big" else 150
    return {"npy": torch.rand(3, size, size).permute(1, 2, 0).numpy(), "cls": random.randrange(10), **sample}


SHARD = tar_of(
    [(f"d/{i:03d}.{ext}", random.Random(i).randbytes(i * 40)) for i in range(40) for ext in ("bin", "x.raw")]
)


@pytest.fixture(scope="module")
def runtime(start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(scramble, options={"workers": 2, "ring_bytes": RING, "torch": True})


@pytest.fixture(scope="module")
def whole(runtime: Runtime) -> bytes:
    conversation = runtime.run(SHARD, args="x")
    assert conversation.stats.samples_in == 40
    assert conversation.stats.bytes_out == conversation.total
    return bytes(conversation.output)


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("careful", [True, False])
def test_the_same_request_gives_the_same_bytes(runtime: Runtime, whole: bytes, ring: bool, careful: bool) -> None:
    for _ in range(3):
        assert runtime.run(SHARD, args="x", ring=ring, careful=careful).output == whole


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"etag": "v2"}, {"args": "y"}])
def test_every_part_of_the_identity_changes_the_bytes(runtime: Runtime, whole: bytes, change: dict[str, Any]) -> None:
    assert runtime.run(SHARD, **({"args": "x"} | change)).output != whole


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("careful", [True, False])
def test_another_worker_continues_from_every_whole_checkpoint_with_the_same_bytes(
    runtime: Runtime, whole: bytes, ring: bool, careful: bool
) -> None:
    first = runtime.run(SHARD, args="x", ring=ring, careful=careful)
    parts = 0
    at = 0  # where the last whole sample ended
    for total, checkpoint in first.checkpoints:
        at = total if checkpoint.whole else at
        parts += not checkpoint.whole
        where = {"sample": checkpoint.next_sample, "input": checkpoint.next_input, "output": at}
        rest = runtime.run(SHARD, args="x", ring=ring, request_id=f"r{total}", **where)
        assert bytes(first.output[:at]) + bytes(rest.output) == whole
        assert rest.end == len(whole)
        assert rest.stats.samples_in == 40 - checkpoint.next_sample
    if ring:
        assert parts > 1, "some samples are larger than the ring"


def test_a_reader_that_stops_and_comes_back_misses_nothing(runtime: Runtime, whole: bytes) -> None:
    """As the gateway does with a slow reader: it closes with spans unread, and continues later from what it sent."""
    sent = bytearray()
    at = sample = position = 0
    attempts = 0
    while True:
        attempts += 1
        where = {"sample": sample, "input": position, "output": at}
        del sent[at:]  # a part of a sample comes again
        with runtime.start(SHARD, args="x", ring=True, request_id="slow", **where) as conversation:
            frames = 0
            while not conversation.over and (frames < 4 or not any(at.whole for _, at in conversation.checkpoints)):
                conversation.receive()
                frames += 1
            base = len(sent)
            sent += conversation.output
            for total, checkpoint in conversation.checkpoints:
                sample, position = checkpoint.next_sample, checkpoint.next_input
                at = base + total if checkpoint.whole else at
            if conversation.over:
                break
    assert sent == whole
    assert attempts > 3


def rename(sample: dict[str, Any], args: str) -> dict[str, Any]:
    """Keys of the function's own from sample 20 on."""
    key = sample["__key__"]
    number = int(key.rpartition("/")[2])
    return {"__key__": f"{key}-small" if number < 20 else f"new{number // int(args)}", "bin": sample["bin"]}


@pytest.mark.parametrize("ring", [True, False])
def test_no_worker_begins_behind_keys_that_it_could_not_know(start_shared: Callable[..., Runtime], ring: bool) -> None:
    runtime = start_shared(rename, options={"workers": 1})
    once = runtime.run(SHARD, args="1", ring=ring)
    assert max(at.next_sample for _, at in once.checkpoints if at.whole) == 20
    assert once.end == once.total
    twice = runtime.run(SHARD, args="10", ring=ring)
    assert "is that of an earlier sample" in twice.failure.message
