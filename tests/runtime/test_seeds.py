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
    assert draw(replace(JOB, request_id="other", key="elsewhere"), 5) == first


@pytest.mark.parametrize("change", [{"transform_id": "t-2"}, {"etag": "f"}, {"seed": 1}, {"epoch": 1}])
def test_every_part_of_the_identity_changes_all_generators(change: dict) -> None:
    first, second = draw(JOB, 5), draw(replace(JOB, **change), 5)
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_every_sample_has_numbers_of_its_own() -> None:
    assert len({draw(JOB, index)[0] for index in range(1000)}) == 1000


def test_parts_of_the_identity_cannot_run_into_each_other() -> None:
    assert draw(replace(JOB, transform_id="a", etag="bc"), 0) != draw(replace(JOB, transform_id="ab", etag="c"), 0)
