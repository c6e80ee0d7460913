"""A cloudpickle whose bytes depend on the code alone, and that can say what it could not pickle.

cloudpickle ships functions by value, but its bytes differ from process to process: sets come in hash order, dynamic
classes carry a random id, code objects carry the path of their file, strings are shared or not as the interpreter
interned them, tensors carry an address. A transform's identity is the digest of these bytes, so `StablePickler` fixes
each of these. It is built on the pure-Python pickler, since only that one asks us about sets and strings, and lets us
keep the path from the function to the object at hand, for messages. Speed does not matter here: a function is pickled
once.

By value go `__main__` and *local* modules, i.e. source files outside the standard library and site-packages (this
includes editable installs: the worker does not have them). A local module that is used as an object (`helpers.scale`)
is sent with only those attributes that some pickled code names; which ones these are is known after pickling, so
`dumps` repeats until no new name turns up. By reference goes the rest, and `modules` tells what the pickle will import.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import io
import itertools
import pickle
import sys
import sysconfig
import types
import typing
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cloudpickle import cloudpickle

from shardgate.errors import CaptureError
from shardgate.tensors import reduce_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOL = 5
RECURSION_LIMIT = 20_000
CLASS_TRACKER = {cloudpickle._make_skeleton_class: 4, cloudpickle._make_skeleton_enum: 5, cloudpickle._make_typevar: 5}  # noqa: SLF001
"""Where the arguments of these constructors hold a random id; None is allowed there and means "no sharing"."""
MACHINE_NAMES = frozenset({"__builtins__", "__cached__", "__file__", "__loader__", "__path__", "__spec__"})
"""Attributes of a module that describe this machine."""
UNSTABLE_CLASS_NAMES = frozenset({"__firstlineno__", "__static_attributes__"})
FILE_MODULE = "__etl__"
"""Name of a module that `load_function` made of a file."""
BY_VALUE = ("__main__", "__mp_main__", FILE_MODULE)
OURS = ("shardgate", "shardgate_runtime")
"""Every worker has these, also in a development checkout, where they look local."""


_PythonPickler: Any = pickle._Pickler  # type: ignore[attr-defined,unused-ignore]  # noqa: SLF001


@dataclass(frozen=True)
class Pickled:
    """Attributes: data: the pickle. modules: what loading and running it imports, sorted."""

    data: bytes
    modules: tuple[str, ...]


def dumps(obj: object) -> Pickled:
    """Pickle by value what the receiver can't import.

    Raises:
        CaptureError: Something in it can't be pickled; the message names the path to it.
    """
    names: frozenset[str] = frozenset()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
    try:
        while True:
            buffer = io.BytesIO()
            pickler = StablePickler(buffer, names)
            pickler.dump_whole(obj)
            if not pickler.filtered or pickler.names <= names:
                return Pickled(buffer.getvalue(), tuple(sorted(pickler.modules)))
            names |= pickler.names
    finally:
        sys.setrecursionlimit(limit)


def is_local(module_name: str) -> bool:
    """Whether a module is code of this project, that a worker can't import."""
    top = module_name.partition(".")[0]
    if module_name in BY_VALUE:
        return True
    if top in sys.stdlib_module_names or top in OURS:
        return False
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None) or PathFinder.find_spec(top)
    places = spec and (spec.origin, *(spec.submodule_search_locations or ()))
    source = getattr(module, "__file__", None) or next((place for place in places or () if place), None)
    if not source or source in {"built-in", "frozen"}:
        return module is not None and spec is None  # made by hand, as notebooks and tests do
    path = Path(source).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts) or any(
        path.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")
    )
    return not installed


class StablePickler(_PythonPickler):  # type: ignore[misc]
    """See the module's docstring.

    Attributes:
        modules: Names of the modules that the pickle refers to.
        names: Attribute and global names, and strings, in all code that was pickled.
        filtered: Whether a local module was pickled, so that `names` matters.
    """

    dispatch_table = cloudpickle.Pickler.dispatch_table

    def __init__(self, file: io.BytesIO, wanted: frozenset[str]) -> None:
        super().__init__(file, PROTOCOL)
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.modules: set[str] = set()
        self.names: set[str] = set()
        self.filtered = False
        self._wanted = wanted
        self._strings: dict[str, str] = {}
        self._trail: list[object] = []

    def dump_whole(self, obj: object) -> None:
        try:
            self.dump(obj)
        except CaptureError:
            raise
        except RecursionError:
            raise CaptureError(f"{describe(self._trail[:8])} … is nested too deeply to be sent") from None
        except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
            raise unpicklable(self._trail, error) from None  # its traceback is forty frames of pickle

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Keep the trail; it is left as it is on failure. Equal strings become one, however they were interned."""
        if type(obj) is str:
            obj = self._strings.setdefault(obj, obj)
        self._trail.append(obj)
        super().save(obj, save_persistent_id)
        self._trail.pop()

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = pickle.whichmodule(obj, name or getattr(obj, "__qualname__", obj.__name__))  # type: ignore[attr-defined]
        if is_local(module):
            known = f"{module}.{name or obj.__name__}"
            raise pickle.PicklingError(f"it is known only as {known}, which a worker can't import")
        self.modules.add(module)
        super().save_global(obj, name)

    dispatch: ClassVar = {**_PythonPickler.dispatch, types.FunctionType: save_global}

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is types.FunctionType:
            return self._dynamic_function_reduce(obj) if self._by_value(obj) else NotImplemented
        if kind in (set, frozenset):
            return kind, (sorted(obj, key=_order),)
        if kind is types.ModuleType:
            return self._reduce_module(obj)
        if kind is types.CodeType:
            self._note_code(obj)
        if kind is functools._lru_cache_wrapper:  # noqa: SLF001
            return functools.lru_cache(**obj.cache_parameters()), (obj.__wrapped__,)
        if kind is typing.TypeVar:
            return _untracked(cloudpickle._typevar_reduce(obj))  # noqa: SLF001
        reduced = reduce_tensor(obj)
        if reduced is not NotImplemented:
            self.modules.add("torch")
        return reduced

    def _by_value(self, obj: Any) -> bool:
        if is_local(obj.__module__ or "__main__"):
            return True
        return not cloudpickle._should_pickle_by_reference(obj)  # noqa: SLF001

    def _reduce_class(self, obj: type) -> Any:
        reduced = cloudpickle._class_reduce(obj)  # noqa: SLF001
        if reduced is NotImplemented and is_local(obj.__module__):
            reduced = cloudpickle._dynamic_class_reduce(obj)  # noqa: SLF001
        if reduced is NotImplemented or len(reduced) == 2:  # noqa: PLR2004 - a builtin, made by its name
            return reduced
        contents = reduced[2][0]
        for name in UNSTABLE_CLASS_NAMES:
            contents.pop(name, None)
        if dataclasses.is_dataclass(obj) and (obj.__doc__ or "").startswith(f"{obj.__name__}("):
            contents["__doc__"] = None  # made of the defaults' repr, sets in hash order
        return _untracked(reduced)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        if not is_local(module.__name__):
            self.modules.add(module.__name__)
            return cloudpickle.subimport, (module.__name__,)
        self.filtered = True
        wanted = {n: v for n, v in vars(module).items() if n in self._wanted and n not in MACHINE_NAMES}
        return types.ModuleType, (module.__name__,), {name: wanted[name] for name in sorted(wanted)}

    def _dynamic_function_reduce(self, function: types.FunctionType) -> tuple[Any, ...]:
        """As cloudpickle's, with submodules in the order of their names, not in that of their import."""
        reduced: tuple[Any, ...] = cloudpickle.Pickler._dynamic_function_reduce(self, function)  # noqa: SLF001
        reduced[2][1]["_cloudpickle_submodules"].sort(key=lambda module: module.__name__)
        return reduced

    def _function_getnewargs(self, function: types.FunctionType) -> tuple[Any, ...]:
        """As cloudpickle's, without the paths of this machine in code and globals."""
        around = function.__globals__
        known: dict[str, Any] = {name: around[name] for name in ("__package__", "__name__") if name in around}
        base_globals = self.globals_ref.setdefault(id(around), known)
        code = function.__code__
        closure = function.__closure__ and tuple(cloudpickle._make_empty_cell() for _ in code.co_freevars)  # noqa: SLF001
        return _relocated(code, code.co_firstlineno - 1, f"<{code.co_qualname}>"), base_globals, None, None, closure

    def _note_code(self, code: types.CodeType) -> None:
        self.names.update(code.co_names, (c for c in code.co_consts if isinstance(c, str)))
        for module in lazy_imports(code):
            if is_local(module):
                raise CaptureError(
                    f"{code.co_qualname} imports {module} while it runs, which is local: a worker does not have it",
                    hint=f"import {module} at the top of the file: what is used of it is then sent along",
                )
            self.modules.add(module)


def lazy_imports(code: types.CodeType) -> Iterable[str]:
    """Modules that an `import` statement inside this code names; for a relative one, its own name behind the dots."""
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            relative = bool(index > 1 and instructions[index - 2].argval)
            if relative:
                raise CaptureError(
                    f"{code.co_qualname} has a relative import, and a worker does not have its package",
                    hint="import at the top of the file: what is used is then sent along",
                )
            yield str(instruction.argval)


def _untracked(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    make, args, *rest = reduced
    place = CLASS_TRACKER.get(make)
    return reduced if place is None else (make, (*args[:place], None, *args[place + 1 :]), *rest)


def _relocated(code: types.CodeType, lines: int, filename: str) -> types.CodeType:
    """The same code, counted from its own first line in a file of its own name."""
    constants = tuple(_relocated(c, lines, filename) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return code.replace(co_filename=filename, co_firstlineno=code.co_firstlineno - lines, co_consts=constants)


def _order(item: object) -> tuple[str, str]:
    return type(item).__qualname__, repr(sorted(item, key=_order)) if isinstance(item, frozenset) else repr(item)


def unpicklable(trail: list[object], error: Exception) -> CaptureError:
    """Say which thing, reached how, can't be sent."""
    culprit = trail[-1]
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    return CaptureError(
        f"{describe(trail)} of type {kind} can't be sent: {error}",
        hint="make it inside the function, or in `setup()` of a class, so that each worker makes its own",
    )


def describe(trail: list[object]) -> str:
    """Read the path from the function to its last object: "`wd_transform` → global `lock`"."""
    steps = [f"`{getattr(trail[0], '__qualname__', type(trail[0]).__qualname__)}`"] if trail else []
    owner = trail[0] if trail else None
    for parent, child in itertools.pairwise(trail):
        if isinstance(parent, (types.FunctionType, type)) or hasattr(parent, "__dict__"):
            owner = parent
        if step := _step(owner, parent, child):
            steps.append(step)
    return " → ".join(steps)


def _step(owner: object, parent: object, child: object) -> str | None:
    """How `child` is reached from a dict, or from the closure of a function; other containers say nothing."""
    if isinstance(owner, types.FunctionType):
        for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
            if child is cell:
                return f"closure variable `{name}`"
        for name, value in zip(_defaulted(owner), owner.__defaults__ or (), strict=True):
            if child is value and parent is owner.__defaults__:
                return f"default of `{name}`"
    if not isinstance(parent, dict):
        return None
    name = next((str(k) for k, v in parent.items() if v is child), "")
    if not name or name in {"__globals__", "__closure__", "__defaults__", "__kwdefaults__", "__dict__"}:
        return None
    if isinstance(owner, types.FunctionType) and owner.__globals__.get(name, parent) is child:
        return f"global `{name}`"
    return f"attribute `{name}`" if getattr(owner, name, parent) is child else f"item `{name}`"


def _defaulted(function: types.FunctionType) -> tuple[str, ...]:
    code = function.__code__
    count = len(function.__defaults__ or ())
    return code.co_varnames[code.co_argcount - count : code.co_argcount]
