"""Bugs of a function are told when it is captured, and code that works is captured in silence."""

# ruff: noqa: F821

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from shardgate import CaptureError, CaptureWarning, Client, TemplateError, WDTransform, sizes
from shardgate.capture import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fake_gateway import FakeGateway

LATER: Any


def three(sample: Any, crop: int, size: int) -> Any:
    return sample, crop, size


def with_size(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments, 1, 2)

    return wrapper


class NeedsWeights:
    def __init__(self, weights: str) -> None:
        self.weights = weights

    def __call__(self, sample: Any) -> Any:
        return sample


class NotCallable:
    def forward(self, sample: Any) -> Any:
        return sample


class TwoMore:
    def __call__(self, sample: Any, crop: int, size: int) -> Any:
        return sample, crop, size


class Static:
    @staticmethod
    def __call__(sample: Any) -> Any:
        return sample


class UsesUndefined:
    def __call__(self, sample: Any) -> Any:
        return nowhere(sample)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (three, r"three\(sample, crop, size\) does not fit"),
        (lambda: 1, "does not fit"),
        (functools.partial(three, 1, 2, 3), "does not fit"),
        (lambda sample, *, size: (sample, size), "missing a required"),
        (TwoMore, r"TwoMore.__call__\(.*crop.* does not fit"),
        (TwoMore(), "does not fit"),
        (NeedsWeights, "makes an instance of NeedsWeights without arguments: missing a required argument: 'weights'"),
        (NotCallable, "instances of the class NotCallable can't be called"),
    ],
)
def test_parameters_that_nobody_passes_are_told_at_once(function: Any, said: str) -> None:
    with pytest.raises(CaptureError, match=said) as caught:
        capture(function)
    assert caught.value.hint


@pytest.mark.parametrize(
    "function",
    [
        lambda sample, args: (sample, args),
        lambda sample, *, args: (sample, args),
        lambda *anything, **more: (anything, more),
        lambda sample, size=3: (sample, size),
        functools.partial(three, crop=1, size=2),
        with_size(three),
        NeedsWeights("w"),
        NeedsWeights("w").__call__,
        Static,
        Static(),
        functools.lru_cache(lambda sample: sample),
        bytes.upper,
        str,
        len,
    ],
)
def test_what_a_worker_can_call_is_captured_in_silence(function: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(function, name="f")


def undefined(sample: Any) -> Any:
    image = sample["png"]
    return resise(image)


def undefined_in_a_branch(sample: Any) -> Any:
    return debug_only(sample) if sample is None else sample


def undefined_in_a_helper(sample: Any) -> Any:
    return undefined_in_a_branch(sample)


def test_a_name_that_is_not_defined_is_an_error_where_the_function_always_uses_it() -> None:
    with pytest.raises(CaptureError, match="undefined uses resise, which is not defined"):
        capture(undefined)
    with pytest.raises(CaptureError, match=r"UsesUndefined.__call__ uses nowhere"):
        capture(UsesUndefined)
    for function in (undefined_in_a_branch, undefined_in_a_helper):
        with pytest.warns(CaptureWarning, match="undefined_in_a_branch uses debug_only, which is not defined"):
            capture(function)


def test_a_misspelt_name_is_suggested() -> None:
    names: dict[str, Any] = {"__name__": "__main__", "resize": len}
    exec("def f(sample):\n    return resise(sample)", names)
    with pytest.raises(CaptureError) as caught:
        capture(names["f"])
    assert caught.value.hint == "did you mean resize?"


WORKING = """
import sys as _sys
from functools import partial

def __getattr__(name):
    return 3

model = None

def setup():
    global model, other
    model = other = 1

def comprehension(sample):
    setup()
    return {k: [v for v in [k, sample]] for k in sample if k}, other

def class_body(sample):
    class Inner:
        a = 1
        b = a
        def method(self):
            return __class__, self.b, __name__
    return Inner

def by_attribute(sample):
    import sys
    sys.modules[__name__].model_of_module = 1
    return model_of_module

def nested(sample):
    def inner():
        nonlocal sample
        return sample, later(sample)
    return inner

def later(sample):
    try:
        return unicode(sample)
    except NameError:
        return sample

def dynamic(sample):
    exec("made = 1", globals())
    return made

def walrus(sample):
    while (n := len(sample)) > 2:
        sample = sample[1:]
    match sample:
        case [first, *rest]:
            return first, rest, n
    with open(__file__) as file:
        return file, partial, _sys, print

def generator(sample):
    yield from (x for x in sample)
    del sample

def annotated(sample: "Undefined") -> "AlsoUndefined":
    value: int = 3
    return value, sorted(sample, key=lambda one: -one)
"""
FUNCTIONS = [
    "by_attribute",
    "comprehension",
    "class_body",
    "nested",
    "later",
    "dynamic",
    "walrus",
    "generator",
    "annotated",
]


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "working_code.py").write_text(WORKING)
    spec = importlib.util.spec_from_file_location("working_code", tmp_path / "working_code.py")
    module = sys.modules["working_code"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["working_code"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_working_code_raises_no_alarm(working: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(getattr(working, name))


def test_a_transform_is_taken_for_its_id_and_nothing_else_is(client: Client, gateway: FakeGateway) -> None:
    etl = WDTransform(client, lambda sample: sample, "same")
    assert client.object_url("gcp://b", "k", transform_id=etl) == client.object_url(
        "gcp://b", "k", transform_id=etl.uuid
    )
    assert (etl >> etl).uuid in client.object_url("gcp://b", "k", transform_id=etl >> etl).replace("%2C", ",")
    gateway.objects["gcp://b/k"] = b"body"
    assert client.get("gcp://b", "k", transform_id=etl) == b"body"
    for wrong in (three, 3, object(), WDTransform):
        with pytest.raises(TypeError, match="transform_id is an id, a name or a transform"):
            client.object_url("gcp://b", "k", transform_id=wrong)
    with pytest.raises(TemplateError):
        client.expand_object_urls("gcp://b", template="{1..9999999}", transform_id=etl)


def test_a_large_package_names_its_largest_values(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(sizes, "LARGE", 5_000_000)
    weights, table, small = np.zeros(1_000_000), {"rows": ["x" * 100_000 for _ in range(20)]}, 3

    def f(sample: Any) -> Any:
        return sample, weights, table, small

    with pytest.warns(CaptureWarning) as caught:
        capture(f)
    (warning,) = caught
    assert "the package of f has 8 MB" in str(warning.message)
    assert "`weights` (8 MB)" in str(warning.message)
    assert "small" not in str(warning.message)
    holder = NeedsWeights("w" * 6_000_000)
    with pytest.warns(CaptureWarning, match=r"`weights` \(6 MB\)"):
        capture(holder)
