"""What the standard library wraps around code arrives, wherever the code was imported from."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from captured import Captured, capture_script

from shardgate.capture import capture, load_function
from shardgate.pickling import dumps

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
    import concurrent.futures.thread, contextlib, enum, functools, json, operator, struct, sys, weakref, xml.dom.minidom
    from math import sqrt
    from typing import Callable, NamedTuple, NewType, ParamSpec, Protocol, TypedDict, TypeVar

    from numpy import add
    from scipy.special import expit

    class Lazy:
        def __init__(self): self.factor = 2
        @functools.cached_property
        def table(self): return [number * self.factor for number in range(3)]
        @functools.singledispatchmethod
        def kind(self, value): return "other"
        @kind.register
        def _(self, value: int): return "int"
        @functools.lru_cache
        def cached(self, value): return value + 1
        half = functools.partialmethod(lambda self, value, by: value / by, by=2)
        @contextlib.contextmanager
        def opened(self): yield 5
    class Derived(functools.cached_property): pass
    class Other:
        @Derived
        def value(self): return 4
    lazy = Lazy()
    def f_cached_property(): return lazy.table, vars(lazy).get("table"), Other().value
    def f_methods(): return lazy.kind(1), lazy.kind(""), lazy.cached(1), lazy.half(4)

    @functools.singledispatch
    def name(value):
        "Names."
        return "other"
    @name.register
    def _(value: int): return "int"
    @name.register(list)
    def _(value): return [name(part) for part in value]
    name.extra = 3
    def f_singledispatch(): return name(1), name(b""), name([1, [""]]), name.__doc__, name.extra, name.dispatch(bool)(1)

    @functools.total_ordering
    class Ordered:
        def __init__(self, value): self.value = value
        def __eq__(self, other): return self.value == other.value
        def __lt__(self, other): return self.value < other.value
    def f_total_ordering(): return Ordered(1) >= Ordered(0)

    @contextlib.contextmanager
    def opened(): yield 7
    @opened()
    def decorated(): return 1
    def f_contextmanager():
        with opened() as first, lazy.opened() as second: return first, second, decorated()

    @functools.cache
    def cached(value): return value + 1
    key = functools.cmp_to_key(lambda first, second: second - first)
    header, decoder = struct.Struct("<I"), json.JSONDecoder(parse_int=float)
    get, upper = operator.itemgetter("a"), operator.methodcaller("upper")
    bound = functools.partial(cached, 3)
    def f_functools(): return cached(1), sorted([1, 3, 2], key=key), bound()
    def f_others(): return header.size, decoder.decode("[1]"), get({"a": 1}), upper("x")
    class Keep: pass
    kept = Keep()
    weak, by_key = weakref.WeakValueDictionary(a=kept), weakref.WeakKeyDictionary({kept: 1})
    def f_weak(): return weak["a"] is kept, by_key[kept]

    UserId, P, T = NewType("UserId", int), ParamSpec("P"), TypeVar("T", bound="Keep")
    class Typed(TypedDict): a: int
    class Goes(Protocol):
        def go(self) -> int: ...
    class Pair(NamedTuple): a: int = 1
    class Mode(enum.Flag): A = enum.auto(); B = enum.auto()
    def f_typing(a: UserId = UserId(3), b: Callable[P, T] = None, c: Goes = None) -> UserId:
        return UserId(4), Typed(a=1)["a"], Pair().a, (Mode.A | Mode.B).value

    def f_compiled(): return sqrt(4), float(expit(0)), int(add(1, 2))
    part = "futures"
    def f_attribute(): return concurrent.futures.__name__
    def f_inner(): return [concurrent.futures.__name__ for _ in "a"], (lambda: xml.dom.minidom.__name__)()
    def f_getattr(): return getattr(concurrent, "futures").__name__
    def f_attrgetter(): return operator.attrgetter("futures.thread")(concurrent).__name__
    def f_named_by_a_global(): return getattr(concurrent, part).__name__
    def f_default(package=concurrent): return getattr(package, "futures").__name__
"""
FUTURES = "concurrent.futures"
RESULTS = {
    "f_cached_property": [[0, 2, 4], [0, 2, 4], 4],
    "f_methods": ["int", "other", 2, 2.0],
    "f_singledispatch": ["int", "other", ["int", ["other"]], "Names.", 3, "int"],
    "f_total_ordering": True,
    "f_contextmanager": [7, 5, 1],
    "f_functools": [2, [3, 2, 1], 4],
    "f_others": [4, [1.0], 1, "X"],
    "f_weak": [True, 1],
    "f_typing": [4, 1, 1, 3],
    "f_compiled": [2.0, 0.5, 3],
    "f_attribute": FUTURES,
    "f_inner": [[FUTURES], "xml.dom.minidom"],
    "f_getattr": FUTURES,
    "f_attrgetter": f"{FUTURES}.thread",
    "f_named_by_a_global": FUTURES,
    "f_default": FUTURES,
}


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture_script(tmp_path_factory.mktemp("wrappers"), SOURCE)


@pytest.mark.parametrize("name", RESULTS)
def test_wrapped_and_reexported_code_arrives(captured: Captured, name: str) -> None:
    assert captured.refusals == {}
    assert captured.results[name] == RESULTS[name]
    assert captured.first[name] == captured.second[name]


REEXPORTS = """
    from _heapq import heappush
    from fnmatch import _compile_pattern
    from math import sqrt
    from numpy import add
    from numpy.random import rand
    from PIL.Image import new
    from re import sub as replaced
    from scipy.special import expit
    from torch import relu

    def squashed(sample):
        return expit(sample), add(1, 2), sqrt(4), relu, rand, heappush, _compile_pattern, replaced, new
"""


@pytest.mark.parametrize("name", ["squashed", "expit", "add", "sqrt", "relu", "rand", "replaced", "new"])
def test_a_file_of_the_user_is_never_where_an_installed_function_is_from(tmp_path: Path, name: str) -> None:
    (tmp_path / "etl.py").write_text(textwrap.dedent(REEXPORTS))
    function = load_function(f"{tmp_path}/etl.py:{name}")
    assert b"__etl__" not in dumps(function).data or name == "squashed"
    assert capture(function, name="x")[0].requirements or name in {"sqrt", "replaced"}


def test_where_a_compiled_function_is_from_does_not_depend_on_who_imported_it_first(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("from scipy.special import expit\nfrom numpy import add\n")
    for name, first in {"a": "import helpers", "b": "import sklearn.linear_model", "c": "import scipy.special"}.items():
        source = f"import sys\n{first}\nfrom scipy.special import expit\nfrom shardgate.pickling import dumps\n"
        (tmp_path / f"{name}.py").write_text(f"{source}sys.stdout.buffer.write(dumps(expit).data)\n")
    sent = {
        subprocess.run([sys.executable, f"{name}.py"], cwd=tmp_path, check=True, capture_output=True).stdout
        for name in "abc"
    }
    assert len(sent) == 1


def test_a_type_variable_of_a_local_module_is_sent(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(
        "from typing import TypeVar, NewType\nT = TypeVar('T')\nId = NewType('Id', int)\n"
    )
    source = "from helpers import T, Id\ndef f_typed(a: T = None, b: Id = 3) -> T: return b\n"
    captured = capture_script(tmp_path, source)
    assert captured.refusals == {}
    assert captured.results == {"f_typed": 3}
