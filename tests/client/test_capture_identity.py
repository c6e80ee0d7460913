"""One id for one code: from process to process, whatever libraries leave in classes and functions."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from captured import Captured, capture_script

if TYPE_CHECKING:
    from pathlib import Path

MODELS = """
    import abc, collections, dataclasses, enum, functools, logging, math, weakref
    from typing import Annotated, Generic, Literal, TypeVar

    import attr, attrs, pydantic

    T = TypeVar("T")

    class Base(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        number: int = 1
        tags: frozenset[str] = frozenset({"x", "y", "z"})

    class Sub(Base):
        base: Base | None = None
        kids: list["Sub"] = []
        @pydantic.field_validator("number")
        @classmethod
        def positive(cls, value): return abs(value)
        @pydantic.computed_field
        @property
        def double(self) -> int: return self.number * 2

    class Box(pydantic.BaseModel, Generic[T]):
        value: T

    class Numbers(pydantic.RootModel[list[int]]): pass
    class Cat(pydantic.BaseModel): kind: Literal["cat"] = "cat"
    class Dog(pydantic.BaseModel): kind: Literal["dog"] = "dog"
    class Zoo(pydantic.BaseModel): pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]

    @pydantic.dataclasses.dataclass(frozen=True)
    class Point: x: int = 1
    @pydantic.validate_call
    def checked(number: int, text: str = "x"): return number, text
    adapter = pydantic.TypeAdapter(dict[str, Base])
    def f_pydantic(): return Sub(number=-3, base=Base(), kids=[Sub()]).model_dump(mode="json")["double"]
    def f_pydantic_frozen(): return Base() in {Base()}
    def f_pydantic_generic():
        return Box[int](value="3").value, Numbers([1]).root, Zoo(pet={"kind": "dog"}).pet.kind
    def f_pydantic_others(): return Point().x, checked("3"), adapter.validate_python({"a": {}})["a"].number

    @attrs.frozen
    class Frozen: x: int; y: tuple = ()
    @attrs.define(unsafe_hash=True, cache_hash=True, order=True)
    class Cached: x: int = 0
    @attr.s(hash=True, auto_attribs=True)
    class Old: x: int = 3
    def f_attrs(): return len({Frozen(1), Frozen(1), Frozen(2), Cached(), Cached(), Old(), Old()}), Cached() < Cached(2)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Data: x: int = 1; names: frozenset = frozenset({"a", "b", "c"})
    def f_dataclass(): return dataclasses.replace(Data(), x=4).x, len({Data(), Data()})
    def f_missing(): return dataclasses.fields(Data)[0].default_factory is dataclasses.MISSING

    class Shape(abc.ABC): pass
    for number in range(5): Shape.register(type(f"S{number}", (), {}))
    def f_registered(): return len(Shape.__subclasses__())

    class Ob:
        def __init__(self, number): self.number = number
    class Tags(set): pass
    def plus(value): return value + 1
    functions = {plus, math.sqrt, lambda value: value - 1, lambda value: value * 2}
    objects = frozenset(Ob(number) for number in range(8))
    nested = {(frozenset({"a", "b", "c"}), number) for number in range(4)} | {frozenset({Ob(1), Ob(2)})}
    partials = {functools.partial(math.pow, number) for number in range(6)}
    tags = Tags({"a", "b", "c", "d"})
    weak = weakref.WeakSet(objects)
    cycle = set()
    cycle.update({Ob(cycle), Ob(7)})
    def f_sets(): return len(functions), sorted(ob.number for ob in objects), len(nested), len(partials)
    def f_derived_sets(): return type(tags).__name__, sorted(tags), len(weak), len(objects)
    def f_cyclic_set(): return [ob.number is cycle for ob in cycle].count(True)

    text = f"made by {plus!r}"
    table = {f"{Ob.__module__}.Ob:{id(Ob)}": 1}
    def f_addresses(): return text.startswith("made by <function plus at 0x"), len(table)
    def f_numbers(): return "20240115", "1764268505000", "0xdeadbeef", "key:1234567", "140000000000001"
    log = logging.getLogger(__name__)
    def f_logger(): return log.name
"""
RESULTS = {
    "f_pydantic": 6,
    "f_pydantic_frozen": True,
    "f_pydantic_generic": [3, [1], "dog"],
    "f_pydantic_others": [1, [3, "x"], 1],
    "f_attrs": [4, True],
    "f_dataclass": [4, 1],
    "f_missing": True,
    "f_registered": 0,
    "f_sets": [4, list(range(8)), 5, 6],
    "f_derived_sets": ["Tags", ["a", "b", "c", "d"], 8, 8],
    "f_cyclic_set": 1,
    "f_addresses": [True, 1],
    "f_numbers": ["20240115", "1764268505000", "0xdeadbeef", "key:1234567", "140000000000001"],
    "f_logger": "__main__",
}
GENERATORS = """
    import random
    import numpy as np
    import torch

    def drawn(generator, draw):
        draw(generator)
        return generator

    unseeded = {
        "generator": np.random.default_rng(), "state": np.random.RandomState(), "sequence": np.random.SeedSequence(),
        "child": np.random.default_rng().spawn(2)[1], "mersenne": np.random.MT19937(), "philox": np.random.Philox(),
        "sfc": np.random.SFC64(), "random": random.Random(), "torch": torch.Generator(),
    }
    unseeded["torch"].seed()
    draw, gauss = np.random.default_rng().random, random.Random().gauss
    random.Random().gauss()
    first, second = np.random.default_rng(), np.random.default_rng()
    seeded = np.random.default_rng(42)
    seeded_and_drawn = drawn(np.random.default_rng(42), lambda generator: generator.random(random.randrange(9)))
    other_seed = np.random.default_rng(43)
    third_child = np.random.default_rng(np.random.SeedSequence(42).spawn(3)[2])
    torch_seeded = torch.Generator().manual_seed(42)
    default = torch.default_generator
    def f_unseeded(): return {name: type(generator).__name__ for name, generator in unseeded.items()}
    def f_methods(): return 0 <= draw() < 1, isinstance(gauss(), float)
    def f_apart(): return first.random() != second.random()
    def f_seeded(value=seeded): return value.random() == np.random.default_rng(42).random()
    def f_drawn(value=seeded_and_drawn): return value.random() == np.random.default_rng(42).random()
    def f_other(value=other_seed): return value.random() == np.random.default_rng(43).random()
    def f_child():
        return third_child.random() == np.random.default_rng(np.random.SeedSequence(42).spawn(3)[2]).random()
    def f_torch(): return torch_seeded.initial_seed(), default is torch.default_generator
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture_script(tmp_path_factory.mktemp("models"), MODELS)


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture_script(tmp_path_factory.mktemp("generators"), GENERATORS)


@pytest.mark.parametrize("name", RESULTS)
def test_addresses_salts_and_hash_order_are_not_part_of_the_id(models: Captured, name: str) -> None:
    assert models.refusals == {}
    assert models.first[name] == models.second[name]
    assert models.results[name] == RESULTS[name]


def test_the_state_of_a_generator_is_not_part_of_the_id(generators: Captured) -> None:
    assert generators.refusals == {}
    assert generators.first == generators.second
    assert set(generators.results.pop("f_unseeded")) >= {"generator", "state", "torch"}
    assert generators.results.pop("f_torch") == [42, True]
    assert {name: result for name, result in generators.results.items() if result not in (True, [True, True])} == {}


def test_a_seed_that_was_given_is_part_of_the_id_and_what_was_drawn_since_is_not(tmp_path: Path) -> None:
    source = "import numpy as np\nshared = np.random.default_rng({seed})\n{more}\ndef f_draw(): return shared.random()"
    ids = []
    for number, (seed, more) in enumerate([(42, ""), (42, "shared.random(5)"), (43, "")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        ids.append(capture_script(folder, source.format(seed=seed, more=more)).first["f_draw"])
    assert ids[0] == ids[1] != ids[2]


def test_tensors_of_all_kinds_are_the_same_bytes(tmp_path: Path) -> None:
    source = """
        import torch, warnings
        from torchvision import tv_tensors
        layer = torch.nn.Linear(2, 2)
        for parameter in layer.parameters(): parameter.data.fill_(0.5)
        norm = torch.nn.BatchNorm1d(2)
        picture = tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8))
        sparse, storage = torch.eye(3).to_sparse(), torch.arange(3).untyped_storage()
        def f_layer(): return layer(torch.ones(1, 2)).tolist(), norm.running_mean.tolist()
        def f_picture(): return type(picture).__name__, list(picture.shape)
        def f_others(): return sparse.to_dense().sum().item(), len(storage)
    """
    captured = capture_script(tmp_path, source)
    assert captured.first == captured.second
    assert captured.results == {
        "f_layer": [[[1.5, 1.5]], [0.0, 0.0]],
        "f_picture": ["Image", [3, 2, 2]],
        "f_others": [3.0, 24],
    }


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
def test_functions_that_numba_compiles_have_one_id(tmp_path: Path) -> None:
    source = """
        import numba
        @numba.njit
        def plus(value): return value + 1
        @numba.njit("f8(f8)")
        def eager(value): return value + 1
        @numba.njit
        def calls(number): return plus(number - 2) * 2
        @numba.vectorize
        def twice(value): return value * 2
        def f_jit(): return plus(1), eager(2.0), calls(3), float(twice(3))
    """
    captured = capture_script(tmp_path, source)
    assert captured.first == captured.second
    assert captured.results == {"f_jit": [2, 3.0, 4, 6.0]}


@pytest.mark.skipif(find_spec("albumentations") is None, reason="albumentations is not installed")
def test_a_pipeline_of_albumentations_has_one_id(tmp_path: Path) -> None:
    source = """
        import albumentations as A
        import numpy as np
        pipeline = A.Compose(
            [A.HorizontalFlip(), A.RandomBrightnessContrast(), A.RandomCrop(4, 4), A.OneOf([A.Blur(), A.GaussNoise()])],
            bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]),
        )
        def f_pipeline():
            done = pipeline(image=np.zeros((8, 8, 3), np.uint8), bboxes=[[0, 0, 8, 8]], labels=[1])
            return list(done["image"].shape)
    """
    captured = capture_script(tmp_path, source)
    assert captured.refusals == {}
    assert captured.first == captured.second
    assert captured.results == {"f_pipeline": [4, 4, 3]}
