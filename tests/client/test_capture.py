"""The same code is the same package, other code another; what can't be sent is named."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from shardgate import CaptureError, InvalidName, wire
from shardgate.capture import capture, default_name, load_function
from shardgate.pickling import dumps, is_local

if TYPE_CHECKING:
    from pathlib import Path

HELPERS = """
    import threading
    import numpy as np
    from dataclasses import dataclass
    from enum import Enum

    lock = threading.Lock()   # can't be sent, and is not used
    FACTOR = 3
    NAMES = {"zulu", "alpha", "mike", "oscar", 7, (1, 2)}
    TABLE = np.arange(6)

    class Mode(Enum):
        FAST = "fast"
        EXACT = "exact"

    @dataclass
    class Options:
        mode: Mode = Mode.FAST
        names: frozenset = frozenset({"p", "q", "r"})

    def scale(value):
        return value * FACTOR

    def unused():
        with lock:
            return 0
"""
TRANSFORM = """
    import functools
    import os.path
    import numpy as np
    import helpers
    from helpers import Options, scale

    WEIGHTS = np.linspace(0, 1, 5)
    OPTIONS = Options()

    class Model:
        LABELS = {"x", "y", "z"}
        def setup(self):
            self.ready = True
        def __call__(self, sample):
            return helpers.scale(sample) if self.ready else None

    @functools.lru_cache(maxsize=8)
    def cached(value):
        return value + 1

    def wd_transform(sample, bias=2):
        inner = lambda value: value in {"aa", "bb", "cc"}
        sample["out"] = scale(sample["n"]) + bias + cached(1) + float(WEIGHTS.sum()) + len(helpers.NAMES)
        sample["kind"] = OPTIONS.mode.value, inner("bb"), os.path.join("a", "b"), int(np.sum(helpers.TABLE))
        return sample
"""
PRINT = """
    import sys
    from shardgate.capture import capture
    import transform
    sys.stdout.buffer.write(capture(getattr(transform, sys.argv[1]))[1])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return package_of(write_project(tmp_path_factory.mktemp("original")), seed="1")


def write_project(folder: Path) -> Path:
    for name, text in {"helpers": HELPERS, "transform": TRANSFORM, "printer": PRINT}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def package_of(project: Path, function: str = "wd_transform", seed: str = "0") -> bytes:
    """Capture in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(project)}
    command = [sys.executable, "printer.py", function]
    return subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True).stdout


def test_the_same_code_gives_the_same_bytes_in_any_process(project: Path, original: bytes) -> None:
    assert package_of(project, seed="2") == original, "in another folder, under another hash seed"
    assert package_of(project, seed="3") == original, "from .pyc instead of source"
    for file in project.glob("*.py"):
        file.write_text(f"# a comment above\n\n{file.read_text()}")
    assert package_of(project, seed="4") == original, "some lines further below"
    assert str(project.parent).encode() not in original, "no path of this machine is sent"


def test_a_tensor_gives_the_same_bytes_in_any_process() -> None:
    code = """
        import sys, torch
        from shardgate.pickling import dumps
        weights = torch.linspace(0, 1, 7).reshape(7, 1)
        sys.stdout.buffer.write(dumps(lambda: weights).data)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    first, second = (subprocess.run(command, check=True, capture_output=True).stdout for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("transform", "bias=2", "bias=3"),
        ("transform", "linspace(0, 1, 5)", "linspace(0, 2, 5)"),
        ("transform", '"cc"', '"dd"'),
        ("helpers", "FACTOR = 3", "FACTOR = 4"),
        ("helpers", "value * FACTOR", "value + FACTOR"),
        ("helpers", 'FAST = "fast"', 'FAST = "faster"'),
        ("helpers", "arange(6)", "arange(7)"),
    ],
)
def test_other_code_anywhere_is_another_transform(
    project: Path, original: bytes, file: str, old: str, new: str
) -> None:
    path = project / f"{file}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert wire.transform_id("t", package_of(project)) != wire.transform_id("t", original)


def test_a_package_runs_where_the_local_modules_are_not(original: bytes, tmp_path: Path) -> None:
    (tmp_path / "package").write_bytes(original)
    run = """
        import pickle, sys
        from shardgate import wire
        manifest, function = wire.unpack_package(open(sys.argv[1], "rb").read())
        sample = pickle.loads(function)({"n": 2})
        assert "helpers" not in sys.modules
        print(sample["out"], sample["kind"])
    """
    command = [sys.executable, "-c", textwrap.dedent(run), str(tmp_path / "package")]
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    out = subprocess.run(command, cwd="/", env=away, check=True, capture_output=True, text=True).stdout
    assert out == "18.5 ('fast', True, 'a/b', 15)\n"


def test_the_manifest_tells_what_is_needed(original: bytes) -> None:
    from importlib.metadata import version

    from packaging.version import Version

    manifest, _ = wire.unpack_package(original)
    pins = [f"{name}=={Version(version(name)).public}" for name in ["numpy"]]
    assert list(manifest.requirements) == pins
    assert manifest.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (manifest.name, manifest.entry) == ("wd-transform", "wd_transform")
    assert manifest.source.startswith("def wd_transform(sample, bias=2):")


def test_requirements_of_the_user_are_added_and_win() -> None:
    import PIL.Image

    manifest, _ = capture(
        lambda sample: PIL.Image.new("L", sample), extra_requirements=["Pillow>=1", "six", "a-b[c]==1"]
    )
    assert manifest.requirements == ("a-b[c]==1", "Pillow>=1", "six")
    with pytest.raises(CaptureError, match="not a requirement"):
        capture(len, extra_requirements=["not one!"])


def returned(function: Any) -> Any:
    """What arrives at a worker."""
    return pickle.loads(dumps(function).data)


def test_closures_partials_lambdas_methods_and_callable_objects_arrive() -> None:
    offset = [5]

    def closed(value: int) -> int:
        return value + offset[0]

    class Model:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def __call__(self, value: int) -> int:
            return value * self.factor

        def method(self, value: int) -> int:
            return -value

    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert returned(closed)(1) == 6
    assert returned(lambda value: value * 2)(4) == 8
    assert returned(functools.partial(closed, 3))() == 8
    assert returned(Model(3))(5) == 15
    assert returned(Model(3).method)(5) == -5
    assert returned(Model)(7)(1) == 7
    assert returned(fibonacci)(10) == 55
    assert returned(functools.cache(fibonacci))(10) == 55


def test_torchvision_compose_arrives_and_gives_the_same_pixels() -> None:
    import torch
    from PIL import Image
    from torchvision import transforms

    compose = transforms.Compose(
        [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)]
    )
    image = Image.linear_gradient("L").convert("RGB")
    assert torch.equal(returned(compose)(image), compose(image))
    assert capture(compose)[0].name == "compose"


def test_tensors_of_any_kind_keep_their_values() -> None:
    import torch

    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "strided": torch.arange(12).reshape(3, 4).T,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "bool": torch.tensor([True, False]),
        "learned": torch.nn.Parameter(torch.ones(2)),
        "complex": torch.tensor([1 + 2j]),
    }
    back = returned(lambda: tensors)()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor), name
        assert back[name].dtype == tensor.dtype
        assert back[name].requires_grad == tensor.requires_grad
    assert "torch" in dumps(lambda: tensors).modules


def test_enums_dataclasses_generics_and_cycles_arrive() -> None:
    class Color(enum.Enum):
        RED = 1

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        color: Color = Color.RED

    class Node:
        def __init__(self) -> None:
            self.me = self

    node = Node()
    arrived = returned(lambda: (Point(1), node))()
    assert arrived[0].x == 1
    assert arrived[0].color.name == "RED"
    assert arrived[1].me is arrived[1]


class Held:
    def __init__(self) -> None:
        self.state = {"guard": threading.Lock()}

    def __call__(self, sample: object) -> object:
        return sample


guard = threading.Lock()


def uses_guard(sample: object) -> object:
    with guard:
        return sample


def calls_uses_guard(sample: object) -> object:
    return uses_guard(sample)


def closes_over_a_lock() -> Any:
    inside = threading.Lock()

    def function(sample: object) -> object:
        with inside:
            return sample

    return function


@pytest.mark.parametrize(
    ("function", "path"),
    [
        (uses_guard, "`uses_guard` → global `guard` of type _thread.lock can't be sent"),
        (calls_uses_guard, "`calls_uses_guard` → global `uses_guard` → global `guard` of type _thread.lock"),
        (closes_over_a_lock(), "function` → closure variable `inside` of type _thread.lock can't be sent"),
        (lambda sample, first=1, gen=(x for x in ()): sample, "default of `gen` of type generator"),
        (Held(), "`Held` → attribute `state` → item `guard` of type _thread.lock can't be sent"),
        (functools.partial(len, guard), "of type _thread.lock can't be sent"),
    ],
)
def test_what_cannot_be_sent_is_named_with_the_path_to_it(function: Any, path: str) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(function)
    assert path in caught.value.message
    assert "setup()" in caught.value.hint


def test_endless_nesting_is_an_error() -> None:
    nested: list[Any] = []
    for _ in range(50_000):
        nested = [nested]
    with pytest.raises(CaptureError, match="too deeply"):
        capture(lambda: nested)


def test_a_local_module_imported_while_running_is_refused_before_it_fails_there(project: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(project))

    def late(sample: object) -> object:
        import helpers

        return helpers.scale(sample)

    with pytest.raises(CaptureError, match="imports helpers while it runs") as caught:
        capture(late)
    assert "at the top of the file" in caught.value.hint


def test_a_library_imported_while_running_is_a_requirement() -> None:
    def late(sample: object) -> object:
        import PIL.Image

        return PIL.Image.new("L", (1, 1))

    assert [text.partition("==")[0] for text in capture(late)[0].requirements] == ["pillow"]


def test_installed_code_goes_by_reference_and_ours_by_value() -> None:
    assert not is_local("os.path")
    assert not is_local("torch.nn")
    assert not is_local("shardgate.tensors")
    assert not is_local("a_module_that_nobody_has")
    assert is_local("__main__")
    assert is_local(__name__)


@pytest.mark.parametrize("name", ["Imagenet", "a_b", "-a", "a-", "", "x" * 49, "a.b", "ä"])
def test_a_name_that_dns_refuses_is_refused_with_one_that_fits(name: str) -> None:
    if name:
        with pytest.raises(InvalidName, match="can't name a transform"):
            capture(len, name=name)
    assert capture(len, name=name and "ok")[0].name == ((name and "ok") or "len")


def test_a_name_comes_from_the_function() -> None:
    assert default_name(calls_uses_guard) == "calls-uses-guard"
    assert default_name(lambda: None) == "lambda"
    assert default_name(functools.partial(uses_guard)) == "uses-guard"
    assert default_name(Held()) == "held"


def test_something_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(CaptureError, match="must be callable"):
        capture(3)  # type: ignore[arg-type]


def test_a_function_is_loaded_from_a_file_and_goes_by_value(project: Path) -> None:
    function = load_function(f"{project}/transform.py:wd_transform")
    manifest, package = capture(function)
    assert manifest.entry == "wd_transform"
    assert hashlib.sha256(package).digest() == hashlib.sha256(capture(function)[1]).digest()
    assert b"FACTOR" in package
    for wrong, match in {
        f"{project}/transform.py:nothing": "has no 'nothing'",
        f"{project}/absent.py:f": "does not name",
        "transform.py": "does not name",
    }.items():
        with pytest.raises(CaptureError, match=match):
            load_function(wrong)
    (project / "broken.py").write_text("1/0")
    with pytest.raises(CaptureError, match="ZeroDivisionError"):
        load_function(f"{project}/broken.py:f")
