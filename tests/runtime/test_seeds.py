# ruff: noqa: NPY002 - the old global generator is what user code uses
from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from shardgate import wire
from shardgate_runtime.seeds import Seeds

JOB = wire.Job(request_id="r", transform_id="t-1", bucket="b", key="k", etag="e", seed=0, epoch=0)


def draw(job: wire.Job, index: int) -> tuple[float, ...]:
    Seeds(job).apply(index)
    return (
        random.random(),
        np.random.rand(),
        torch.rand(1).item(),
        random.gauss(0, 1),
        np.random.randn(),
        torch.randn(1).item(),
    )


def test_a_sample_draws_the_same_numbers_whatever_was_drawn_before() -> None:
    first = draw(JOB, 5)
    random.gauss(0, 1)
    np.random.randn()
    torch.randn(3)
    assert draw(JOB, 5) == first
    assert draw(replace(JOB, request_id="other", url="elsewhere", token="t"), 5) == first


@pytest.mark.parametrize(
    "change",
    [{"transform_id": "t-2"}, {"etag": "f"}, {"seed": 1}, {"epoch": 1}, {"bucket": "c"}, {"key": "l"}],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_identity_changes_all_generators(change: dict) -> None:
    first, second = draw(JOB, 5), draw(replace(JOB, **change), 5)
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_every_sample_has_numbers_of_its_own() -> None:
    assert len({draw(JOB, index)[0] for index in range(1000)}) == 1000


def test_parts_of_the_identity_cannot_run_into_each_other() -> None:
    assert draw(replace(JOB, transform_id="a", etag="bc"), 0) != draw(replace(JOB, transform_id="ab", etag="c"), 0)


def test_two_objects_of_one_etag_do_not_draw_the_same_numbers() -> None:
    """Many servers make etags of a file's size and second, so all shards that one job wrote may share theirs."""
    shards = [replace(JOB, key=f"train-{number:06}.tar") for number in range(100)]
    assert len({draw(job, 0) for job in shards}) == 100


def test_opencv_draws_what_the_sample_says() -> None:
    cv2 = pytest.importorskip("cv2")

    def draw_noise(index: int) -> bytes:
        Seeds(JOB).apply(index)
        return cv2.randu(np.zeros((4, 4), "uint8"), 0, 255).tobytes()

    first = draw_noise(0)
    assert draw_noise(1) != first
    assert draw_noise(0) == first
