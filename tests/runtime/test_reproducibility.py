from __future__ import annotations

import itertools
import os
import random
import threading
import time
from typing import Any

import numpy as np
import pytest

from shardgate import wire
from shardgate_runtime.failures import SampleFailed
from shardgate_runtime.generators import generators
from shardgate_runtime.package import Package
from shardgate_runtime.reproducibility import EVERY, Reproducibility
from shardgate_runtime.samples import Clock, SampleProcessor
from shardgate_runtime.scoreboard import Scoreboard
from shardgate_runtime.seeds import Seeds
from shardgate_runtime.tar_reader import RawSample

JOB = wire.Job("r", "t", "b", "k", "e")


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    generators.look(None)


def processor(target: Any) -> SampleProcessor:
    function = Package("t", wire.Manifest("t"), target).instantiate()
    clock = Clock(Scoreboard(1).slots[0], 0)
    return SampleProcessor(wire.Manifest("t", decoder=""), function, "", Seeds(JOB), clock, wire.Stats())


def raw(index: int = 0) -> RawSample:
    return RawSample(index, 0, "k", fields={"__key__": "k", "txt": b"x"})


def same(target: Any) -> bool:
    reproducibility = Reproducibility()
    answer = reproducibility.compare(processor(target), raw())
    assert reproducibility.holds is answer
    assert reproducibility.compared == 1
    return answer


def text(value: Any) -> dict[str, Any]:
    return {"txt": str(value)}


own = np.random.default_rng(7)
counter = itertools.count()
buffer = np.zeros(3, "float32")


def reused_memory(_: Any) -> dict[str, Any]:
    buffer[:] = np.random.rand(3)  # noqa: NPY002 - user code has it
    return {"npy": buffer}


def takes_fields_out(sample: Any) -> dict[str, Any]:
    return text(sample.pop("txt"))


class LazyGenerator:
    rng: Any = None

    def __call__(self, _: Any) -> dict[str, Any]:
        self.rng = self.rng or random.Random()
        return text(self.rng.random())


class GeneratorOfEachCall:
    def __call__(self, _: Any) -> dict[str, Any]:
        self.rng = random.Random()
        self.other = np.random.default_rng()
        return text([self.rng.random(), self.other.random()])


class LazyWeights:
    weights: Any = None

    def __call__(self, _: Any) -> dict[str, Any]:
        if self.weights is None:
            self.weights = random.random()
        return text([self.weights, random.random()])


@pytest.mark.parametrize(
    "target",
    [
        lambda _: text(random.random()),
        lambda _: text(own.random()),
        lambda _: None,
        lambda _: [text(1), text(2)],
        reused_memory,
        takes_fields_out,
        LazyGenerator,
        GeneratorOfEachCall,
        LazyWeights,
    ],
)
def test_a_function_that_follows_its_seeds_is_reproducible(target: Any) -> None:
    assert same(target)


@pytest.mark.parametrize(
    "target",
    [
        lambda _: text(next(counter)),
        lambda _: text(os.urandom(8)),
        lambda _: text(random.SystemRandom().random()),
        lambda _: text(time.time_ns()),
        lambda _: {os.urandom(8).hex(): b""},
        lambda _: None if next(counter) % 2 else text(1),
        lambda _: {"npy": np.frombuffer(os.urandom(800), "u1")},
        lambda _: {"npy": np.frombuffer(os.urandom(800), "u1").reshape(10, 80).T},
    ],
)
def test_a_function_that_gives_other_bytes_the_second_time_is_noticed(target: Any) -> None:
    assert not same(target)


def fails_with_an_address(_: Any) -> Any:
    raise ValueError(object())


def fails_every_other_time(_: Any) -> Any:
    if next(counter) % 2:
        raise ValueError
    return text(1)


@pytest.mark.parametrize("warm", [False, True])
def test_a_function_that_always_changes_is_called_a_few_times_and_not_for_ever(warm: bool) -> None:
    reproducibility, runs = Reproducibility(), []
    reproducibility.compared = warm
    assert not reproducibility.compare_runs(lambda: runs.append(1) or [os.urandom(8)])
    assert len(runs) == (2 if warm else 4)


def test_a_failure_is_a_result_like_others() -> None:
    assert same(fails_with_an_address)
    assert not same(fails_every_other_time)


def test_memory_that_ran_out_says_nothing_of_the_function() -> None:
    def fails_once() -> Any:
        if next(counter) % 2:
            raise SampleFailed("MemoryError", exhausted=True)
        return [b"1"]

    assert Reproducibility().compare_runs(fails_once)


def test_a_sample_that_is_compared_stays_as_it_is() -> None:
    process, sample = processor(takes_fields_out), raw()
    assert Reproducibility().compare(process, sample)
    assert process.process(sample)[1] == 1


def test_comparing_a_sample_changes_no_draw() -> None:
    process = processor(lambda _: text([random.random(), own.random(), random.Random().random()]))
    before = [bytes(piece) for piece in process.run(raw(3))[0]]
    Reproducibility().compare(process, raw(2))
    assert [bytes(piece) for piece in process.run(raw(3))[0]] == before


def test_a_workers_first_sample_is_compared_and_one_of_every_so_many_jobs() -> None:
    reproducibility = Reproducibility()
    due = []
    for number in range(3 * EVERY):
        job = wire.Job("r", "t", "b", f"{number}.tar", "e", sample=5)
        reproducibility.begin_job(job)
        for index in range(5, 200):
            if reproducibility.is_due(index):
                due.append((number, index))
                reproducibility.compare_runs(lambda: [b"1"])
    assert due[0] == (0, 5)
    assert {number for number, _ in due} == {0, EVERY, 2 * EVERY}
    assert len(due) == 3


def test_all_samples_of_short_shards_have_their_turn() -> None:
    chosen = set()
    reproducibility = Reproducibility(every=1)
    reproducibility.compare_runs(lambda: [b"1"])
    for number in range(300):
        reproducibility.begin_job(wire.Job("r", "t", "b", f"{number}.tar", "e"))
        chosen |= {index for index in range(8) if reproducibility.is_due(index)}
    assert chosen == set(range(8))


def test_threads_that_race_for_one_generator_do_not_break_the_comparison() -> None:
    def racing(_: Any) -> dict[str, Any]:
        drawn: list[float] = []
        threads = [threading.Thread(target=lambda: drawn.append(random.random())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return text(sorted(drawn))

    assert same(racing)
