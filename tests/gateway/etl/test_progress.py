"""Bookkeeping of one stream, against a model: any sequence of chunks and losses resumes at the exact byte."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from shardgate import wire
from shardgate_gateway.etl.progress import Progress

JOB = wire.Job("request", "transform", "gcp://bucket", "key", "etag")


def test_a_whole_chunk_moves_the_place_to_go_on_behind_it() -> None:
    progress = Progress(attempts=3)
    progress.advance(100, wire.Checkpoint(2, 2048, whole=True))
    job = progress.resume(JOB)
    assert (job.sample, job.input, job.output, job.skip, job.careful) == (2, 2048, 100, 0, False)


def test_a_part_of_a_sample_is_skipped_when_it_is_run_again() -> None:
    progress = Progress(attempts=3)
    progress.advance(100, wire.Checkpoint(2, 2048, whole=True))
    progress.advance(30, wire.Checkpoint(3, 4096, whole=False))  # sample 2 gave nothing
    progress.advance(20, wire.Checkpoint(3, 4096, whole=False))
    job = progress.resume(JOB)
    assert (job.sample, job.input, job.output, job.skip) == (3, 4096, 100, 50)


def test_a_stream_that_starts_in_the_middle_counts_from_the_beginning_until_a_whole_chunk() -> None:
    progress = Progress(attempts=3, skip=1000)
    progress.advance(0, wire.Checkpoint(4, 512, whole=True))  # still dropping: says nothing about how much is left
    assert progress.resume(JOB).skip == 1000
    progress.advance(24, wire.Checkpoint(7, 9000, whole=False))
    assert (progress.resume(JOB).sample, progress.resume(JOB).skip) == (0, 1024)
    progress.advance(10, wire.Checkpoint(8, 9999, whole=True))
    job = progress.resume(JOB)
    assert (job.sample, job.input, job.output, job.skip) == (8, 9999, 1034, 0)


def test_a_sample_is_poison_after_two_deaths_or_one_certain_one() -> None:
    progress = Progress(attempts=9)
    death = {"sample": 5, "key": "five", "reason": "killed by SIGKILL", "deterministic": False}
    progress.lost()
    assert not progress.explain(death)
    assert progress.resume(JOB).careful
    assert not progress.explain(death)  # the same death told again
    progress.lost()
    assert progress.explain(death)
    assert progress.resume(JOB).poison == {5: "killed by SIGKILL"}
    progress.lost()
    assert progress.explain({"sample": 6, "reason": "killed by SIGSEGV", "deterministic": True})
    assert set(progress.poison) == {5, 6}


def test_deaths_without_a_name_blame_nobody() -> None:
    progress = Progress(attempts=9)
    for death in (None, {}, {"sample": None}, {"sample": "3"}):
        progress.lost()
        assert not progress.explain(death)
    assert not progress.poison


def test_only_losses_without_progress_count() -> None:
    progress = Progress(attempts=2)
    for sample in range(1, 50):
        progress.lost()
        assert not progress.exhausted
        progress.advance(10, wire.Checkpoint(sample, sample * 512, whole=True))
    progress.lost()
    progress.advance(5, wire.Checkpoint(49, 49 * 512, whole=False))  # bytes, but no whole sample
    progress.lost()
    assert progress.exhausted


@dataclass
class Model:
    """A worker that makes `sizes[i]` bytes of sample i and sends them in chunks that end where `cuts` says."""

    sizes: list[int]

    def chunks(self, job: wire.Job, cuts: list[int]) -> list[tuple[bytes, wire.Checkpoint]]:
        made = []
        drop = job.skip
        turn = 0
        assert job.output == sum(self.sizes[: job.sample])
        for index in range(job.sample, len(self.sizes)):
            data = bytes([index % 251]) * self.sizes[index]
            dropped, drop = min(drop, len(data)), max(0, drop - len(data))
            data = data[dropped:]
            while data:
                cut = min(len(data), cuts[turn % len(cuts)])
                turn += 1
                part, data = data[:cut], data[cut:]
                at = (
                    wire.Checkpoint(index + 1, index + 1, whole=True)
                    if not data
                    else wire.Checkpoint(index, index, False)
                )
                made.append((part, at))
        return made


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    lives=st.lists(st.integers(1, 6), max_size=30),
    skip=st.integers(0, 300),
)
def test_whatever_is_lost_the_stream_is_the_same(
    sizes: list[int], cuts: list[int], lives: list[int], skip: int
) -> None:
    model = Model(sizes)
    whole = b"".join(part for part, _ in model.chunks(JOB, [1000]))
    skip = min(skip, len(whole))
    progress = Progress(attempts=1000, skip=skip)
    got = b""
    for life in [*lives, 10**6]:
        for part, checkpoint in model.chunks(progress.resume(JOB), cuts)[:life]:
            got += part
            progress.advance(len(part), checkpoint)
        progress.lost()
    assert got == whole[skip:]
