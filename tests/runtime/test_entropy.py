# ruff: noqa: NPY002, PLW0108 - the old generators are what user code uses; lambdas look up what is replaced
from __future__ import annotations

import os
import pickle
import random
import secrets
import tempfile
import uuid
from typing import Any

import numpy as np
import pytest
import torch

from shardgate import wire
from shardgate_runtime.entropy import entropy
from shardgate_runtime.seeds import Seeds

JOB = wire.Job(request_id="r", transform_id="t-1", bucket="b", key="k", etag="e")


def in_sample(call: Any, index: int = 0, **job: Any) -> Any:
    """What the call gives while a sample runs."""
    seeds = Seeds(wire.Job(**({"request_id": "r", "transform_id": "t", "bucket": "b", "key": "k", "etag": "e"} | job)))
    seeds.apply(index)
    try:
        return call()
    finally:
        seeds.finish()


class Mine(random.Random):
    pass


def reseeded_global() -> float:
    random.seed()
    return random.random()


def reseeded_numpy() -> float:
    np.random.seed()
    return np.random.rand()


def reseeded_torch() -> float:
    torch.seed()
    return torch.rand(1).item()


def reseeded_torch_generator() -> float:
    generator = torch.Generator()
    generator.seed()
    return torch.rand(1, generator=generator).item()


UNSEEDED = {
    "default_rng": lambda: np.random.default_rng().random(),
    "SeedSequence": lambda: np.random.SeedSequence().generate_state(2).tolist(),
    "spawned": lambda: np.random.default_rng().spawn(2)[1].random(),
    "PCG64": lambda: np.random.Generator(np.random.PCG64()).random(),
    "Philox": lambda: np.random.Generator(np.random.Philox()).random(),
    "RandomState": lambda: np.random.RandomState().rand(),
    "numpy.random.seed()": reseeded_numpy,
    "random.Random": lambda: random.Random().random(),
    "a class derived from it": lambda: Mine().random(),
    "random.seed()": reseeded_global,
    "torch.Generator": lambda: torch.rand(1, generator=torch.Generator()).item(),
    "its seed()": reseeded_torch_generator,
    "torch.seed()": reseeded_torch,
    "uuid4": lambda: uuid.uuid4(),
    "a 1000 bit number": lambda: np.random.bit_generator.randbits(1000),
}


@pytest.mark.parametrize("call", UNSEEDED.values(), ids=list(UNSEEDED))
def test_a_generator_made_without_a_seed_draws_what_the_sample_says(call: Any) -> None:
    first = in_sample(call)
    assert in_sample(call) == first
    others = [in_sample(call, 1), *(in_sample(call, **{k: v}) for k, v in {"key": "l", "epoch": 1, "seed": 1}.items())]
    assert len({str(draw) for draw in (first, *others)}) == 5


@pytest.mark.parametrize("call", UNSEEDED.values(), ids=list(UNSEEDED))
def test_outside_of_a_sample_the_system_gives_the_entropy(call: Any) -> None:
    in_sample(call)
    if call is UNSEEDED["torch.Generator"]:
        assert call() == call(), "torch seeds it with a constant"
    else:
        assert call() != call()


def test_two_generators_made_in_one_sample_differ() -> None:
    draws = in_sample(lambda: [np.random.default_rng().random() for _ in range(3)] + [random.Random().random()])
    assert len(set(draws)) == 4


def test_a_library_that_asks_once_per_process_shifts_nobodys_numbers() -> None:
    def once() -> None:
        np.random.default_rng()

    def draw() -> float:
        return np.random.default_rng().random()

    assert in_sample(lambda: [once(), draw()][1]) == in_sample(lambda: [None, draw()][1])


def test_keys_and_names_of_temporary_files_cannot_be_computed_from_a_request() -> None:
    for call in (
        lambda: os.urandom(8),
        lambda: secrets.token_hex(),
        lambda: random.SystemRandom().random(),
        lambda: next(tempfile._RandomNameSequence()),
    ):
        assert in_sample(call) != in_sample(call)


@pytest.mark.parametrize(
    "make",
    [np.random.default_rng, np.random.RandomState, np.random.PCG64, random.Random, Mine, lambda: torch.Generator()],
    ids=["default_rng", "RandomState", "PCG64", "Random", "a class derived from it", "torch.Generator"],
)
def test_a_generator_that_outlives_its_sample_is_noticed(make: Any) -> None:
    in_sample(lambda: None)
    entropy.begin(b"seed")
    kept = make()
    assert entropy.end()
    entropy.begin(b"seed")
    make()
    assert not entropy.end()
    del kept


def test_torch_generators_stay_what_they_are() -> None:
    in_sample(lambda: None)
    generator = torch.Generator()
    assert generator.initial_seed() == 67280421310721, "as torch has it, where no sample runs"
    assert isinstance(generator, torch.Generator)
    assert isinstance(torch.default_generator, torch.Generator)
    assert issubclass(torch._C.Generator, torch.Generator)
    assert torch.equal(pickle.loads(pickle.dumps(generator)).get_state(), generator.get_state())
    assert pickle.loads(pickle.dumps(torch.Generator)) is torch.Generator
    assert torch.Generator(device="cpu").device.type == torch.Generator("cpu").device.type == "cpu"
