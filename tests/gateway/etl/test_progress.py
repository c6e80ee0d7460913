"""Bookkeeping of one stream, against a model: whatever is lost, every byte comes once, and other bytes never follow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shardgate import wire
from shardgate_gateway.errors import TransformError, WorkerLost
from shardgate_gateway.etl.progress import MAX_LOSSES, Progress

JOB = wire.Job("request", "transform", "gcp://bucket", "key", "etag")


def take(progress: Progress, data: bytes, checkpoint: wire.Checkpoint) -> bytes:
    """One chunk on its way through the account to the reader."""
    new = bytes(progress.fresh(memoryview(data), checkpoint))
    progress.advance(len(new), checkpoint)
    return new


def test_a_whole_chunk_moves_the_place_to_go_on_behind_it() -> None:
    progress = Progress(attempts=3)
    progress.resume(JOB)
    take(progress, bytes(100), wire.Checkpoint(2, 2048, whole=True))
    job = progress.resume(JOB)
    assert (job.sample, job.input, job.output, job.careful) == (2, 2048, 100, False)


def test_a_part_of_a_sample_is_made_again_from_the_beginning_of_the_sample() -> None:
    progress = Progress(attempts=3)
    progress.resume(JOB)
    take(progress, bytes(100), wire.Checkpoint(2, 2048, whole=True))
    take(progress, b"x" * 30, wire.Checkpoint(3, 4096, whole=False))  # sample 2 gave nothing
    job = progress.resume(JOB)
    assert (job.sample, job.input, job.output) == (2, 2048, 100)
    assert take(progress, b"x" * 50, wire.Checkpoint(4, 9000, whole=True)) == b"x" * 20
    assert progress.delivered == 150


@pytest.mark.parametrize("second", [b"x" * 29 + b"y" * 50, b"y" * 80, b"y" + b"x" * 60])
def test_a_sample_that_comes_out_differently_never_follows_the_half_of_another_run(second: bytes) -> None:
    progress = Progress(attempts=3, label="gcp://bucket/key")
    progress.resume(JOB)
    take(progress, b"x" * 30, wire.Checkpoint(0, 0, whole=False))
    progress.lost()
    progress.resume(JOB)
    with pytest.raises(TransformError, match="gcp://bucket/key: sample 0 came out differently"):
        take(progress, second, wire.Checkpoint(1, 512, whole=True))
    assert progress.delivered == 30


def test_a_sample_that_is_left_out_the_second_time_never_ends_as_a_success() -> None:
    progress = Progress(attempts=3)
    progress.resume(JOB)
    take(progress, b"x" * 30, wire.Checkpoint(0, 0, whole=False))
    progress.lost()
    progress.resume(JOB)
    take(progress, b"", wire.Checkpoint(1, 512, whole=True))
    with pytest.raises(TransformError, match="sample 0"):
        progress.end(0)


def test_an_end_that_says_another_length_is_a_lost_worker() -> None:
    progress = Progress(attempts=3)
    progress.resume(JOB)
    take(progress, bytes(100), wire.Checkpoint(1, 512, whole=True))
    with pytest.raises(WorkerLost, match="sent 100 bytes of a result and said that there are 101"):
        progress.end(101)
    progress.end(100)


def test_a_stream_that_begins_in_the_middle_compares_what_was_there() -> None:
    whole = bytes(range(200))
    steps = [(whole[:90], wire.Checkpoint(1, 512)), (whole[90:], wire.Checkpoint(2, 1024))]
    progress = Progress(attempts=3, delivered=120, prefix=xxhash.xxh3_128_digest(whole[:120]))
    progress.resume(JOB)
    assert b"".join(take(progress, *step) for step in steps) == whole[120:]
    progress = Progress(attempts=3, delivered=120, prefix=xxhash.xxh3_128_digest(bytes(120)))
    progress.resume(JOB)
    take(progress, *steps[0])
    with pytest.raises(TransformError):
        take(progress, *steps[1])


def test_a_sample_is_poison_after_two_deaths_or_one_certain_one() -> None:
    progress = Progress(attempts=9)
    death = wire.Death(5, "five", "killed by SIGKILL")
    progress.lost()
    assert not progress.explain(death)
    assert progress.resume(JOB).careful
    assert not progress.explain(death)  # the same death told again
    progress.lost()
    assert progress.explain(death)
    assert progress.resume(JOB).poison == {5: "killed by SIGKILL"}
    progress.lost()
    assert progress.explain(wire.Death(6, "six", "killed by SIGSEGV", deterministic=True))
    assert set(progress.poison) == {5, 6}


def test_deaths_without_a_name_blame_nobody() -> None:
    progress = Progress(attempts=9)
    for death in (None, wire.Death(), wire.Death(None, "k", "killed")):
        progress.lost()
        assert not progress.explain(death)
    assert not progress.poison


def test_only_losses_without_progress_count() -> None:
    progress = Progress(attempts=2)
    for sample in range(1, 50):
        progress.lost()
        assert not progress.exhausted
        progress.resume(JOB)
        take(progress, bytes(10), wire.Checkpoint(sample, sample * 512, whole=True))
    progress.lost()
    progress.resume(JOB)
    take(progress, bytes(5), wire.Checkpoint(49, 49 * 512, whole=False))  # bytes, but no whole sample
    progress.lost()
    assert progress.exhausted


@dataclass
class Model:
    """A worker that makes `sizes[i]` bytes of sample i and sends them in chunks that end where `cuts` says.

    Attributes:
        draws: Whether each run makes other bytes.
    """

    sizes: list[int]
    checkpoints: bool = True
    draws: bool = False
    runs: int = 0

    def chunks(self, job: wire.Job, cuts: list[int]) -> list[tuple[bytes, wire.Checkpoint]]:
        made = []
        self.runs += 1
        turn = 0
        assert job.output == sum(self.sizes[: job.sample])
        for index in range(job.sample, len(self.sizes)):
            data = bytes([(index + self.draws * self.runs) % 251]) * self.sizes[index]
            while data:
                cut = min(len(data), cuts[turn % len(cuts)])
                turn += 1
                part, data = data[:cut], data[cut:]
                whole = self.checkpoints and not data
                at = wire.Checkpoint(index + whole, index + whole, whole)
                made.append((part, at if self.checkpoints else wire.Checkpoint(0, 0, whole=False)))
        return made


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    lives=st.lists(st.integers(0, 9), max_size=30),
    skip=st.integers(0, 300),
    proven=st.booleans(),
    checkpoints=st.booleans(),
)
def test_whatever_is_lost_the_stream_is_the_same(
    sizes: list[int], cuts: list[int], lives: list[int], skip: int, proven: bool, checkpoints: bool
) -> None:
    model = Model(sizes, checkpoints)
    whole = b"".join(part for part, _ in model.chunks(JOB, [1000]))
    skip = min(skip, len(whole))
    prefix = xxhash.xxh3_128_digest(whole[:skip]) if proven else b""
    progress = Progress(attempts=1000, delivered=skip, prefix=prefix, anchored=not checkpoints)
    got = b""
    for life in [*lives, 10**6]:
        for chunk in model.chunks(progress.resume(JOB), cuts)[:life]:
            got += take(progress, *chunk)
        progress.lost()
    progress.end(len(whole))
    assert got == whole[skip:]


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    lives=st.lists(st.integers(0, 9), max_size=30),
    checkpoints=st.booleans(),
)
def test_a_function_that_draws_anew_gives_whole_samples_or_breaks_off(
    sizes: list[int], cuts: list[int], lives: list[int], checkpoints: bool
) -> None:
    model = Model(sizes, checkpoints, draws=True)
    progress = Progress(attempts=1000, anchored=not checkpoints)
    got = b""
    try:
        for life in [*lives, 10**6]:
            for chunk in model.chunks(progress.resume(JOB), cuts)[:life]:
                got += take(progress, *chunk)
            progress.lost()
        progress.end(len(got))
    except TransformError:
        return
    ends = list(accumulate(sizes))
    samples = [got[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    assert all(len(set(sample)) == 1 for sample in samples), "no sample is of two runs"
    assert len(got) == ends[-1]
    if not checkpoints:
        assert len({(sample[0] - index) % 251 for index, sample in enumerate(samples)}) == 1, "all are of one run"


def test_workers_that_blame_ever_new_samples_come_to_an_end() -> None:
    progress = Progress(attempts=3, label="gcp://bucket/key")
    for sample in range(1000):
        progress.resume(JOB)
        progress.lost()
        assert progress.explain(wire.Death(sample, "", "killed", deterministic=True))
    progress.lost()
    with pytest.raises(TransformError, match="more than 1000 samples killed their workers"):
        progress.explain(wire.Death(1000, "", "killed", deterministic=True))


@pytest.mark.parametrize("place", [0, 512])  # of compressed shards it is always 0
def test_a_stream_that_gets_on_survives_many_lost_workers_and_not_endlessly_many(place: int) -> None:
    progress = Progress(attempts=3)
    for sample in range(1, MAX_LOSSES):
        progress.resume(JOB)
        take(progress, b"", wire.Checkpoint(sample, place * sample, whole=True))
        progress.lost()
        assert not progress.exhausted
    progress.lost()
    assert progress.exhausted
