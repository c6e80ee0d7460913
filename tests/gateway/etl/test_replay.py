"""Attempts that all begin at the first byte: nothing is delivered twice, and what differs is not continued."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate import wire
from shardgate_gateway.errors import TransformError
from shardgate_gateway.etl.replay import Replay

JOB = wire.Job("r", "t", "b", "k", "e")
WHOLE = bytes(range(200))


def attempt(replay: Replay, body: bytes, steps: list[int]) -> bytes:
    """What one attempt adds: chunks of these sizes, until they or the body are at their end."""
    job = replay.resume(JOB)
    assert (job.sample, job.input, job.skip) == (0, 0, 0)
    got = b""
    at = 0
    for step in steps:
        data = replay.fresh(memoryview(body[at : at + step]))
        replay.advance(len(data), wire.Checkpoint(7, 7))
        got += bytes(data)
        at += step
    if at >= len(body):
        replay.end()
    return got


STEPS = st.lists(st.integers(1, 60), max_size=6)


@given(st.integers(0, 150), st.lists(STEPS, max_size=5))
def test_all_attempts_together_give_every_byte_once(skip: int, attempts: list[list[int]]) -> None:
    replay = Replay(4, skip=skip, label="x")
    got = b"".join(attempt(replay, WHOLE, steps) for steps in [*attempts, [len(WHOLE)]])
    assert got == WHOLE[skip:]
    assert replay.delivered == len(WHOLE)


@given(st.integers(1, 199), st.integers(0, 198), STEPS)
def test_an_attempt_that_differs_is_found_out_before_it_adds_a_byte(given: int, where: int, steps: list[int]) -> None:
    replay = Replay(4, label="x")
    attempt(replay, WHOLE, [given])
    other = bytearray(WHOLE)
    other[where % given] ^= 1
    for body in (bytes(other), WHOLE[: given - 1]):
        with pytest.raises(TransformError, match="not deterministic"):
            attempt(replay, body, [*steps, 200, 200])
        assert replay.delivered == given
