# ruff: noqa: B008, NPY002 - defaults that hold state are the point; the old generators are what user code uses
from __future__ import annotations

import collections
import functools
import random
import sys
import threading
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from shardgate import wire
from shardgate_runtime.generators import generators
from shardgate_runtime.package import Package
from shardgate_runtime.seeds import Seeds

JOB = wire.Job("r", "t", "b", "k", "e")


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    generators.look(None)


def draws(function: Any, indices: Any = (0, 1, 2), job: wire.Job = JOB) -> list[Any]:
    """What the function returns for these samples, one after the other."""
    seeds, drawn = Seeds(job), []
    for index in indices:
        seeds.apply(index)
        drawn.append(function({}))
        seeds.finish()
    return drawn


def instance_of(target: Any) -> Any:
    function = Package("t", wire.Manifest("t"), target).instantiate()
    return lambda sample: function(sample, "")


def check(target: Any) -> None:
    """Each sample draws its own numbers, whatever was drawn before; another process of the same kind the same."""
    function = instance_of(target)
    first = draws(function)
    assert draws(function) == first, "state of one sample reached another"
    assert draws(function, (2, 1, 0)) == first[::-1], "the order of samples matters"
    assert len({repr(draw) for draw in first}) == 3
    assert not {repr(d) for d in draws(function, job=wire.Job("r", "t", "b", "k", "e", epoch=1))} & set(
        map(repr, first)
    )


numpy_generator = np.random.default_rng(7)
philox = np.random.Generator(np.random.Philox(7))
old = np.random.RandomState(7)
old_on_pcg = np.random.RandomState(np.random.PCG64(7))
bits = np.random.PCG64DXSM(7)
plain = random.Random(7)
torch_generator = torch.Generator().manual_seed(7)
containers = {"a": [({"x": random.Random(7)},)], "b": collections.deque([random.Random(8)]), 3: {random.Random(9)}}
drawing = np.random.default_rng(7).random
drawing_plain = random.Random(7).random
wrapped = functools.partial(lambda generator, _: generator.random(), random.Random(7))
spaces = types.SimpleNamespace(inner=types.SimpleNamespace(rng=random.Random(7)))
per_thread = threading.local()
per_thread.rng = random.Random(7)


class Slots:
    __slots__ = ("rng",)

    def __init__(self) -> None:
        self.rng = random.Random(7)


class Class:
    rng = np.random.RandomState(7)


@dataclass
class Data:
    rng: Any = field(default_factory=lambda: np.random.default_rng(7))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(7)


slots, data, net = Slots(), Data(), Net()


def helper() -> float:
    return plain.gauss(0, 1)


@functools.lru_cache(maxsize=1)
def cached() -> Any:
    return random.Random(7)


cached()


def closure() -> Any:
    generator = np.random.default_rng(7)
    return lambda _: generator.random()


def default(_: Any, generator: Any = random.Random(7), *, other: Any = np.random.default_rng(7)) -> list[float]:
    return [generator.random(), other.random()]


def attribute(_: Any) -> float:
    return attribute.generator.random()


attribute.generator = random.Random(7)

REACHED = {
    "numpy": lambda _: numpy_generator.normal(),
    "Philox": lambda _: philox.integers(1 << 40),
    "RandomState": lambda _: old.randn(),
    "RandomState on PCG64": lambda _: old_on_pcg.randn(),
    "bit generator": lambda _: np.random.Generator(bits).random(),
    "spawned": lambda _: numpy_generator.spawn(1)[0].random(),
    "random": lambda _: plain.gauss(0, 1),
    "torch": lambda _: torch.randn(3, generator=torch_generator).tolist(),
    "dict, list, tuple": lambda _: containers["a"][0][0]["x"].random(),
    "deque, set": lambda _: [containers["b"][0].random(), *(one.random() for one in containers[3])],
    "bound method of numpy": lambda _: drawing(),
    "bound method": lambda _: drawing_plain(),
    "partial": lambda _: wrapped(None),
    "attributes": lambda _: spaces.inner.rng.random(),
    "local of a thread": lambda _: per_thread.rng.random(),
    "slots": lambda _: slots.rng.random(),
    "class": lambda _: Class.rng.rand(),
    "dataclass": lambda _: data.rng.random(),
    "torch module": lambda _: torch.rand(1, generator=net.generator).item(),
    "another function's": lambda _: helper(),
    "inner function": lambda _: sorted([2, 1], key=lambda _: plain.random()) and plain.random(),
    "closure": closure(),
    "defaults": default,
    "function's attribute": attribute,
    "partial itself": functools.partial(lambda generator, _: generator.random(), random.Random(7)),
    "bound method itself": types.MethodType(lambda self, _: self.rng.random(), Data()),
}


@pytest.mark.parametrize("function", REACHED.values(), ids=list(REACHED))
def test_a_generator_that_the_function_reaches_draws_what_the_sample_says(function: Any) -> None:
    check(function)


class InSetup:
    def setup(self) -> None:
        self.rng = np.random.default_rng()
        self.nested = {"rng": [random.Random()]}

    def __call__(self, sample: Any) -> list[float]:
        return [self.rng.random(), self.nested["rng"][0].random()]


def test_a_generator_made_in_setup_draws_what_the_sample_says() -> None:
    check(InSetup)
    assert draws(instance_of(InSetup)) == draws(instance_of(InSetup))


class Weights:
    def setup(self) -> None:
        self.weights = [np.random.default_rng().random(), random.random(), np.random.rand(), torch.rand(1).item()]

    def __call__(self, sample: Any) -> Any:
        return self.weights


def test_setup_draws_the_same_in_every_worker_and_other_numbers_for_another_transform() -> None:
    first = instance_of(Weights)({})
    random.random(), np.random.rand(), torch.rand(1)
    assert instance_of(Weights)({}) == first
    other = Package("other", wire.Manifest("t"), Weights).instantiate()
    assert not set(other({}, "")) & set(first)


class Lazy:
    """As many do who read that generators must not be made before a fork."""

    rng: Any = None

    def __call__(self, sample: Any) -> float:
        if self.rng is None:
            self.rng = self.make()
        return self.rng.random()

    def make(self) -> Any:
        return np.random.default_rng()


class LazyState(Lazy):
    def make(self) -> Any:
        return np.random.RandomState()


class LazyRandom(Lazy):
    def make(self) -> Any:
        return random.Random()


@pytest.mark.parametrize("kind", [Lazy, LazyState, LazyRandom])
def test_a_generator_made_in_the_first_sample_does_not_carry_its_state_on(kind: Any) -> None:
    function = instance_of(kind)
    draws(function, [0])
    later = draws(function)
    assert draws(function, (2, 1, 0)) == later[::-1]
    other = instance_of(kind)
    draws(other, [5])
    assert draws(other) == later


def test_two_generators_have_streams_of_their_own() -> None:
    pair = [np.random.default_rng(7), np.random.default_rng(7)]
    function = instance_of(lambda _: [one.random() for one in pair])
    assert len({number for draw in draws(function) for number in draw}) == 6


def test_one_generator_reached_by_two_paths_is_one_stream() -> None:
    one = random.Random(7)
    places = {"a": one, "b": [one]}
    function = instance_of(lambda _: [places["a"].random(), places["b"][0].random()])
    assert all(a != b for a, b in draws(function))


def test_a_generator_in_a_global_of_an_installed_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("augmentations_installed")
    package.rng = np.random.default_rng(7)
    package.holder = types.SimpleNamespace(generator=random.Random(7))
    monkeypatch.setitem(sys.modules, "augmentations_installed", package)
    check(lambda _: [package.rng.random(), package.holder.generator.random()])


def test_a_package_imported_by_a_sample_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("augmentations_late")
    package.rng = np.random.default_rng(7)

    def function(_: Any) -> float:
        monkeypatch.setitem(sys.modules, "augmentations_late", package)
        return sys.modules["augmentations_late"].rng.random()

    instance = instance_of(function)
    draws(instance, [0])
    assert draws(instance, [1, 0]) == draws(instance, [0, 1])[::-1]


def test_properties_are_not_asked() -> None:
    class Loud:
        @property
        def rng(self) -> Any:
            raise AssertionError("a property was asked")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("an attribute was asked")

    loud = Loud()
    instance_of(lambda _: loud)


class Odd(list[Any]):
    """Raises where it is looked at, beside what it holds."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not now")


class OddName(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("no name")


odd = Odd([np.random.default_rng(7)])
oddly_named = {OddName("a"): np.random.default_rng(7), "b": np.random.default_rng(7)}


@pytest.mark.parametrize(
    "function",
    [lambda _: odd[0].random(), lambda _: [oddly_named["b"].random(), oddly_named["a"].random()]],
)
def test_an_object_that_raises_where_it_is_looked_at_hides_no_generator(function: Any) -> None:
    check(function)


by_place = {(0, 0): np.random.default_rng(7), (0, 1): np.random.default_rng(7)}


def test_generators_under_keys_of_one_type_do_not_draw_the_same_numbers() -> None:
    drawn = draws(instance_of(lambda _: [generator.random() for generator in by_place.values()]))
    assert len({number for numbers in drawn for number in numbers}) == 6


def test_a_generator_that_cannot_be_seeded_is_left_alone() -> None:
    class Own(random.Random):
        def seed(self, a: Any = None, version: int = 2) -> None:
            if a is not None:
                raise NotImplementedError
            super().seed(a, version)

    own = Own()
    assert draws(instance_of(lambda _: own.random() and None)) == [None] * 3


def test_a_search_in_a_large_structure_ends() -> None:
    large = [[{"number": [float(i)]} for i in range(1000)] for _ in range(1000)]
    near = random.Random(7)
    check(lambda _: [near.random(), len(large)])


@pytest.mark.parametrize(
    ("function", "drew"),
    [
        (lambda _: 1, False),
        (lambda _: random.random(), True),
        (lambda _: np.random.rand(), True),
        (lambda _: torch.rand(1), True),
        (lambda _: np.random.default_rng().random(), True),
        (lambda _: np.random.default_rng(5).random(), False),
        (lambda _: numpy_generator.random(), True),
        (lambda _: old.rand(), True),
        (lambda _: plain.random(), True),
        (lambda _: torch.rand(1, generator=torch_generator), True),
    ],
)
def test_a_job_tells_whether_it_drew(function: Any, drew: bool) -> None:
    generators.look(function)
    seeds = Seeds(JOB)
    for index in range(2):
        seeds.apply(index)
        function({})
        seeds.finish()
    assert seeds.drew is drew


def test_draws_that_begin_later_are_noticed_too() -> None:
    seeds = Seeds(JOB)
    for index in range(64):
        seeds.apply(index)
        if index > 30:
            random.random()
        seeds.finish()
    assert seeds.drew
