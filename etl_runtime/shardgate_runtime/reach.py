"""The objects that a function reaches: globals, closures, attributes, items. To find the generators among them.

Each is found by a path that is the same in every process: that of fewest steps, and of those the first. Code of the
user is followed by the names that it uses. Into functions and modules of installed packages the search does not go, for
it would not end, but generators in globals of theirs are found. It is bounded: an object that is farther away than
`MAX_OBJECTS` others is not found. A generator there keeps its state, which the second run of a sample shows.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from shardgate.pickling import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_OBJECTS = 20_000
MAX_ITEMS = 5_000
"""Items of one container that are looked at."""
ATOMS: tuple[type, ...] = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, memoryview, range, slice, types.CodeType),
    *(types.EllipsisType, types.FrameType, types.TracebackType, np.generic, np.dtype, np.ufunc),
)
QUIET = frozenset({"charset_normalizer", "cuda", "cv2", "matplotlib", "mpmath", "networkx", "numpy", "pandas", "PIL"})
QUIET |= {
    "pydantic",
    "pydantic_core",
    "scipy",
    "shardgate",
    "shardgate_runtime",
    "skimage",
    "sklearn",
    "sympy",
    "torch",
}
QUIET |= {"torchgen", "torchvision", "triton", "typing_extensions", "webdataset", "yaml"}
"""Packages that keep no generator in a global, beside those that are seeded anyway. Some have thousands of modules."""

Step = tuple[str, Any]


def reachable(root: object) -> Iterator[Step]:
    """Path and object of everything that the search comes to, `root` first."""
    home = str(root.__module__).partition(".")[0] if isinstance(root, (type, types.FunctionType)) else ""
    waiting: deque[Step] = deque([("", root)])
    seen: dict[int, object] = {id(root): root}  # which also keeps temporary ones, so that no id comes twice
    while waiting:
        path, thing = waiting.popleft()
        yield path, thing
        for step, child in _safe_children(thing, home):
            if id(child) in seen or _is_atom(child):
                continue
            if len(seen) >= MAX_OBJECTS:
                break
            seen[id(child)] = child
            waiting.append((path + step, child))


def globals_of_packages(names: Iterable[str]) -> Iterator[Step]:
    """Instances in globals of installed packages, and their attributes: imgaug keeps its generator in an object."""
    for name in sorted(names):
        top, module = name.partition(".")[0], sys.modules.get(name)
        if top in QUIET or top in sys.stdlib_module_names or not isinstance(module, types.ModuleType):
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, _NO_INSTANCE) or _is_atom(value):
                continue
            yield f"{name}.{key}", value
            for attribute, inner in _named(_own(value)):
                yield f"{name}.{key}{attribute}", inner


_NO_INSTANCE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, dict, list, tuple)


def _is_atom(thing: object) -> bool:
    kind = type(thing)
    return kind in ATOMS or issubclass(kind, ATOMS) or _is_plain_array(thing)


def _is_plain_array(thing: Any) -> bool:
    if issubclass(type(thing), np.ndarray):
        return not thing.dtype.hasobject
    torch: Any = sys.modules.get("torch")
    return torch is not None and type(thing) is getattr(torch, "Tensor", None)


def _safe_children(thing: Any, home: str) -> list[Step]:
    """One step further. Classes can be anything: one way that raises ends there, and hides nothing of the others."""
    found: list[Step] = []
    for way in _ways(thing, home):
        with suppress(Exception):
            found.extend(way())  # up to where it raises
    return found


def _ways(thing: Any, home: str) -> tuple[Callable[[], Iterable[Step]], ...]:
    kind = type(thing)
    if issubclass(kind, types.FunctionType):
        return (lambda: _of_function(thing),) if _is_sent(thing, home) else ()
    if issubclass(kind, types.ModuleType):
        return (lambda: _named(vars(thing)),) if _is_users(thing.__name__, home) else ()
    if issubclass(kind, type):
        return (lambda: _of_class(thing, home),)
    return (
        lambda: _items(thing),
        lambda: _attributes(thing),
        lambda: _inside(thing),
        lambda: ((".__class__", kind),),
    )


def _items(thing: Any) -> Iterator[Step]:
    """Of a container of Python's own, or derived from one; others keep theirs in attributes."""
    kind = type(thing)
    if issubclass(kind, dict):
        for number, (key, value) in enumerate(islice(dict.items(thing), MAX_ITEMS)):
            yield f"[{_text(key, number)}]", value
    for sequence in (list, tuple, deque):
        if issubclass(kind, sequence):
            for index, item in enumerate(islice(sequence.__iter__(thing), MAX_ITEMS)):
                yield f"[{index}]", item
    for unordered in (set, frozenset):
        if issubclass(kind, unordered):
            yield from _members(unordered.__iter__(thing))
    if issubclass(kind, np.ndarray):
        for index, item in enumerate(islice(thing.flat, MAX_ITEMS)):
            yield f"[{index}]", item


def _members(items: Iterator[Any]) -> Iterator[Step]:
    """Of a set, whose order is that of its hashes."""
    members = sorted((item for item in items if not _is_atom(item)), key=lambda item: type(item).__qualname__)
    for index, item in enumerate(members):
        yield f"{{{index}}}", item


def _text(key: object, number: int) -> str:
    """A key that no other of its dict has: its text, or where that may hold an address its number and its type."""
    for kind in (str, bytes, int):
        if issubclass(type(key), kind):
            return kind.__repr__(key)
    return f"{number} {type(key).__qualname__}"


def _attributes(thing: Any) -> Iterator[Step]:
    """From its `__dict__` and its slots; properties are not asked, for they run code."""
    yield from _named(_own(thing))
    kind: Any = type(thing)
    for name, slot in _slots(kind):
        try:
            yield f".{name}", slot.__get__(thing, kind)
        except AttributeError:
            continue


@functools.lru_cache(maxsize=4096)
def _slots(kind: type) -> tuple[Step, ...]:
    members = types.MemberDescriptorType
    return tuple(
        (name, slot) for base in kind.__mro__ for name, slot in vars(base).items() if isinstance(slot, members)
    )


def _own(thing: Any) -> Any:
    """Its `__dict__`; of a `threading.local` that of this thread, which `object` can't get at."""
    base = threading.local if issubclass(type(thing), threading.local) else object
    try:
        return base.__getattribute__(thing, "__dict__")
    except (AttributeError, TypeError):
        return {}


def _named(own: Any) -> Iterator[Step]:
    for name, value in list(own.items()):
        yield f".{name}", value


INSIDE = {
    functools.partial: ("func", "args", "keywords"),
    types.MethodType: ("__func__", "__self__"),
    types.BuiltinMethodType: ("__self__",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget",),
    functools.cached_property: ("func",),
    types.CellType: ("cell_contents",),
    functools._lru_cache_wrapper: ("__wrapped__",),  # noqa: SLF001
}
"""Attributes of builtin types that are in no `__dict__`."""


def _inside(thing: Any) -> Iterator[Step]:
    for kind, names in INSIDE.items():
        if issubclass(type(thing), kind):
            for name in names:
                inner = getattr(thing, name, None)
                if inner is not None:
                    yield f".{name}", inner
    if type(thing).__name__ == "cython_function_or_method":  # `draw = numpy.random.default_rng().random`
        yield ".__self__", getattr(thing, "__self__", None)
    if type(thing) is types.GeneratorType and thing.gi_frame is not None:
        yield from _named(thing.gi_frame.f_locals)


def _of_function(function: Any) -> Iterator[Step]:
    yield from _named(function.__dict__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield f"<{name}>", cell
    yield "()", function.__defaults__
    yield "(*)", function.__kwdefaults__
    known = function.__globals__
    for name in _names(function.__code__):
        if name in known:
            yield f":{name}", known[name]


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """That code and the functions inside it use, sorted."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_names(constant))
    return tuple(sorted(names))


def _of_class(kind: type, home: str) -> Iterator[Step]:
    """Attributes of the class and its bases: all of them in the user's classes, in others only data, as MONAI's `R`."""
    for base in kind.__mro__:
        if base.__module__ in sys.stdlib_module_names:
            continue
        users = _is_users(base.__module__, home)
        for name, value in list(vars(base).items()):
            if users or not (isinstance(value, _CODE) or name.startswith("__")):
                yield f".{base.__qualname__}.{name}", value


_CODE: tuple[type, ...] = (
    *(type, types.FunctionType, types.ModuleType, staticmethod, classmethod, property, functools.cached_property),
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType, types.WrapperDescriptorType),
)


def _is_sent(function: Any, home: str) -> bool:
    """Whether its code is the user's: sent by value, or a module of his."""
    module = sys.modules.get(function.__module__ or "")
    return module is None or vars(module) is not function.__globals__ or _is_users(module.__name__, home)


@functools.lru_cache(maxsize=4096)
def _is_users(module: str, home: str) -> bool:
    """Whether a module is code of the user: sent along, local, or of the package that the function itself is of."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return False
    return module not in sys.modules or (top == home and top not in QUIET) or is_local(module)
