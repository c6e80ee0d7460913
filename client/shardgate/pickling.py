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

import contextlib
import dataclasses
import hashlib
import io
import itertools
import pickle
import sys
import types
import typing
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from cloudpickle import cloudpickle

from shardgate.errors import CaptureError
from shardgate.origins import home_of, is_local, lazy_imports, used_submodules, uses_reflection
from shardgate.reducers.generators import reduce_generator
from shardgate.reducers.process import ProcessState
from shardgate.reducers.stable import Addresses, in_order, items_in_order, without_salt
from shardgate.reducers.wrappers import reduce_wrapper
from shardgate.tensors import reduce_tensor
from shardgate.trail import describe, unpicklable

__all__ = ["Pickled", "StablePickler", "dumps", "is_local", "pickled_by"]
PROTOCOL = 5
RECURSION_LIMIT = 20_000
CLASS_TRACKER = {cloudpickle._make_skeleton_class: 4, cloudpickle._make_skeleton_enum: 5, cloudpickle._make_typevar: 5}  # noqa: SLF001
"""Where the arguments of these constructors hold a random id; None is allowed there and means "no sharing"."""
ATOMS = frozenset({str, bytes, int, float, complex, bool, type(None), tuple})
SETS = (set, frozenset, weakref.WeakSet)
SET_REDUCERS: tuple[Any, ...] = tuple(kind.__reduce__ for kind in SETS)
MACHINE_NAMES = frozenset({"__builtins__", "__cached__", "__file__", "__loader__", "__path__", "__spec__"})
"""Attributes of a module that describe this machine."""
UNSTABLE_CLASS_NAMES = frozenset({"__firstlineno__", "__static_attributes__"})
_PythonPickler: Any = pickle._Pickler  # type: ignore[attr-defined,unused-ignore]  # noqa: SLF001


@dataclass(frozen=True)
class Pickled:
    """Attributes: data: the pickle. modules: what loading it imports, sorted. functions: all that it has by value."""

    data: bytes
    modules: tuple[str, ...]
    functions: tuple[types.FunctionType, ...] = ()


AnyPickler = TypeVar("AnyPickler", bound="StablePickler")


def dumps(obj: object) -> Pickled:
    """Pickle by value what the receiver can't import.

    Raises:
        CaptureError: Something in it can't be pickled; the message names the path to it.
    """
    pickler = pickled_by(StablePickler, obj)
    return Pickled(pickler.buffer.getvalue(), tuple(sorted(pickler.modules)), tuple(pickler.functions))


def pickled_by(make: type[AnyPickler], obj: object) -> AnyPickler:
    """The pickler that has pickled the object, with all that code in it names. Raises as `dumps`."""
    names: frozenset[str] = frozenset()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_LIMIT))
    try:
        while True:
            pickler = make(names)
            pickler.dump_whole(obj)
            if not pickler.filtered or pickler.names <= names:
                return pickler
            names |= pickler.names
    finally:
        sys.setrecursionlimit(limit)


class StablePickler(_PythonPickler):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        wanted: Attributes of local modules that are sent.
        outer: Ids of the sets whose members are being put in order by this one.
        process: Of the pickler that asks for that order.

    Attributes:
        buffer: Where the pickle goes.
        modules: Names of the modules that the pickle refers to.
        names: Attribute and global names, and strings, in all code that was pickled.
        functions: Those that were pickled by value.
        filtered: Whether a local module was pickled, so that `names` matters.
    """

    dispatch_table = cloudpickle.Pickler.dispatch_table

    def __init__(
        self, wanted: frozenset[str], outer: frozenset[int] = frozenset(), process: ProcessState | None = None
    ) -> None:
        self.buffer = io.BytesIO()
        super().__init__(self.buffer, PROTOCOL)
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.modules: set[str] = set()
        self.names: set[str] = set()
        self.functions: list[types.FunctionType] = []
        self.filtered = False
        self._wanted = wanted
        self._outer = outer
        self._process = process or ProcessState()
        self._addresses = Addresses()
        self._generators = itertools.count()
        self._strings: dict[str, str] = {}
        self._trail: list[object] = []

    def dump_whole(self, obj: object) -> None:
        try:
            self.dump(obj)
            self._trail.append(obj)
            self._process.check_strings(self._strings)
        except CaptureError:
            raise
        except RecursionError:
            raise CaptureError(f"{describe(self._trail[:8])} … is nested too deeply to be sent") from None
        except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
            raise unpicklable(self._trail, error) from None  # its traceback is forty frames of pickle

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Keep the trail; it is left as it is on failure. Equal strings become one, however they were interned."""
        self._trail.append(obj)
        if type(obj) is str:
            obj = self._stable_string(obj)
        super().save(obj, save_persistent_id)
        self._trail.pop()

    def _batch_setitems(self, items: Any, *rest: Any) -> None:
        super()._batch_setitems(iter(items_in_order(list(items))), *rest)

    def _stable_string(self, text: str) -> str:
        if text not in self._strings:
            self._process.check_text(text)
            stable = self._addresses.stable(text)
            self._strings[text] = self._strings.setdefault(stable, stable)
        return self._strings[text]

    def save_global(self, obj: Any, name: str | None = None) -> None:
        name = name or getattr(obj, "__qualname__", None) or obj.__name__
        module = home_of(obj, name)
        if module is None:
            known = f"{getattr(obj, '__module__', None) or '__main__'}.{name}"
            raise pickle.PicklingError(f"it is known only as {known}, which a worker can't import")
        self.modules.add(module)
        self.save(module)
        self.save(name)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    dispatch: ClassVar = {**_PythonPickler.dispatch, types.FunctionType: save_global}

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in ATOMS:
            return NotImplemented
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is types.ModuleType:
            return self._reduce_module(obj)
        if kind is types.CodeType:
            self._note_code(obj)
            return NotImplemented
        if issubclass(kind, (set, frozenset, weakref.WeakSet)):
            return self._reduce_set(obj)
        if kind is typing.TypeVar:
            return self._reduce_type_variable(obj)
        reduced = reduce_wrapper(obj)
        if reduced is NotImplemented and kind is types.FunctionType:
            return self._dynamic_function_reduce(obj) if self._by_value(obj) else NotImplemented
        if reduced is NotImplemented:
            reduced = self._process.reduce(obj)
        return self._reduce_value(obj) if reduced is NotImplemented else reduced

    def _reduce_value(self, obj: Any) -> Any:
        reduced = reduce_generator(obj, self._generators)
        if reduced is NotImplemented:
            reduced = reduce_tensor(obj)
            if reduced is not NotImplemented:
                self.modules.add("torch")
        return reduced

    def _reduce_set(self, obj: Any) -> Any:
        """With its members in an order that does not depend on hashes, which are salted, or addresses."""
        kind: Any = type(obj)
        if kind.__reduce__ not in SET_REDUCERS or kind.__reduce_ex__ is not object.__reduce_ex__:
            return NotImplemented
        make, _, *rest = obj.__reduce__() if kind not in SETS else (kind, ())
        if id(obj) in self._outer:
            return make, ()
        outer = self._outer | {id(obj)}
        return make, (in_order(obj, lambda member: self._digest(member, outer)),), *rest

    def _digest(self, obj: Any, outer: frozenset[int]) -> str:
        inner = StablePickler(self._wanted, outer, self._process)
        inner._addresses = self._addresses.anew()
        with contextlib.suppress(Exception):  # what can't be pickled fails again, where its path is known
            inner.dump(obj)
        return hashlib.sha256(inner.buffer.getvalue()).hexdigest()

    def _reduce_type_variable(self, obj: Any) -> Any:
        if is_local(obj.__module__ or "__main__"):
            return cloudpickle._make_typevar, (*cloudpickle._decompose_typevar(obj)[:5], None)  # noqa: SLF001
        return _untracked(cloudpickle._typevar_reduce(obj))  # noqa: SLF001

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
        if "_abc_impl" in contents:
            contents["_abc_impl"] = in_order(contents["_abc_impl"], str)
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
        """As cloudpickle's, with submodules that are named by strings or in inner functions, in a fixed order."""
        self.functions.append(function)
        reduced: tuple[Any, ...] = cloudpickle.Pickler._dynamic_function_reduce(self, function)  # noqa: SLF001
        state = reduced[2][1]
        values = [*state["__globals__"].values(), *map(cloudpickle._get_cell_contents, function.__closure__ or ())]  # noqa: SLF001
        values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        state["_cloudpickle_submodules"] = used_submodules(function.__code__, values)
        if uses_reflection(function.__code__):
            self.names.update(value for value in values if isinstance(value, str))
        return reduced

    def _function_getnewargs(self, function: types.FunctionType) -> tuple[Any, ...]:
        """As cloudpickle's, without the paths of this machine in code and globals."""
        around = function.__globals__
        known: dict[str, Any] = {name: around[name] for name in ("__package__", "__name__") if name in around}
        base_globals = self.globals_ref.setdefault(id(around), known)
        code = without_salt(function.__code__)
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


def _untracked(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    make, args, *rest = reduced
    place = CLASS_TRACKER.get(make)
    return reduced if place is None else (make, (*args[:place], None, *args[place + 1 :]), *rest)


def _relocated(code: types.CodeType, lines: int, filename: str) -> types.CodeType:
    """The same code, counted from its own first line in a file of its own name."""
    constants = tuple(_relocated(c, lines, filename) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return code.replace(co_filename=filename, co_firstlineno=code.co_firstlineno - lines, co_consts=constants)
