"""What the standard library, numba and typing wrap around functions and types, and pickle can't send as it is."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import json.scanner
import struct
import sys
import types
import typing
import weakref
from typing import TYPE_CHECKING, Any

from shardgate.origins import is_importable, is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GENERIC_CODE = functools.singledispatch(lambda value: value).__code__  # type: ignore[attr-defined]
_KEY_TYPE = type(functools.cmp_to_key(lambda first, second: 0))  # noqa: ARG005
_PARAMETERS: tuple[type, ...] = tuple(
    getattr(module, name)
    for module in (typing, sys.modules.get("typing_extensions"))
    for name in ("ParamSpec", "TypeVarTuple")
    if isinstance(getattr(module, name, None), type)
)
_SCANNER: Any = type(vars(json.JSONDecoder())["scan_once"])
_SCANNED_WITH = ("strict", "object_hook", "object_pairs_hook", "parse_float", "parse_int", "parse_constant")
_ALIAS: Any = getattr(typing, "TypeAliasType", None)
_CONTEXTS: Any = contextlib._GeneratorContextManagerBase  # noqa: SLF001
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary)


def reduce_wrapper(obj: Any) -> Any:
    """Reduce to what the wrapper was made of; NotImplemented for anything else."""
    if isinstance(obj, types.FunctionType):
        return _reduce_function(obj)
    if isinstance(obj, functools.cached_property):
        return restore_cached_property, (type(obj), obj.func), {k: v for k, v in vars(obj).items() if k != "lock"}
    kind = type(obj)
    if kind is functools._lru_cache_wrapper:  # noqa: SLF001
        if is_importable(obj):
            return NotImplemented
        return functools.lru_cache(**obj.cache_parameters()), (obj.__wrapped__,)
    if kind is _KEY_TYPE:
        return functools.cmp_to_key, (
            next(part for part in gc.get_referents(obj) if callable(part) and part is not kind),
        )
    if kind is struct.Struct:
        return struct.Struct, (obj.format,)
    if kind is _SCANNER:
        return restore_scanner, ({name: getattr(obj, name) for name in _SCANNED_WITH},)
    if isinstance(obj, _CONTEXTS):
        return restore_context, (kind, obj.func, obj.args, obj.kwds)
    if kind in _WEAK:
        return kind, (dict(obj),)
    return _reduce_typing(obj) if kind.__module__ in {"typing", "typing_extensions"} else _reduce_jitted(obj)


def _reduce_typing(obj: Any) -> Any:
    """Types that are named by the module that defines them, where that is the user's."""
    kind: Any = type(obj)
    if not is_local(getattr(obj, "__module__", None) or "__main__"):
        return NotImplemented
    if kind is typing.NewType:
        return typing.NewType, (obj.__qualname__, obj.__supertype__), {"__module__": obj.__module__}
    if kind in _PARAMETERS:
        return kind, (obj.__name__,)
    if kind is _ALIAS:
        return restore_alias, (obj.__name__, obj.__value__, obj.__type_params__)
    return NotImplemented


def _reduce_function(function: types.FunctionType) -> Any:
    if function.__code__ is _GENERIC_CODE:
        return NotImplemented if is_importable(function) else _reduce_generic(function)
    if "raw_function" in vars(function):
        return _reduce_validated(function)
    return NotImplemented


def _reduce_validated(function: Any) -> Any:
    """A function of `pydantic.validate_call`, whose wrapper holds the namespace of the user's module."""
    pydantic: Any = sys.modules.get("pydantic")
    for cell in function.__closure__ or ():
        wrapper: Any = getattr(cell.cell_contents, "__self__", None)
        if pydantic is not None and type(wrapper).__name__ == "ValidateCallWrapper":
            raw, options = function.raw_function, wrapper.config_wrapper.config_dict
            hints = typing.get_type_hints(raw, include_extras=True)
            return restore_validated, (pydantic.validate_call, raw, hints, options, wrapper.validate_return)
    return NotImplemented


def _reduce_generic(function: Any) -> Any:
    """A function of `functools.singledispatch`, empty at first: its implementations may call it."""
    names = {name: getattr(function, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(function, name)}
    own = {n: v for n, v in vars(function).items() if n not in {"register", "dispatch", "registry", "_clear_cache"}}
    return make_generic, (function.__name__,), (dict(function.registry), own, names), None, None, fill_generic


def _reduce_jitted(obj: Any) -> Any:
    """A function that numba compiles: numba's own pickle holds a random id, and the function in an opaque pickle."""
    serialize: Any = sys.modules.get("numba.core.serialize")
    if serialize is None or not isinstance(obj, serialize.ReduceMixin):
        return NotImplemented
    if is_importable(obj):
        return obj.__qualname__
    states = obj._reduce_states()  # noqa: SLF001 - numba's protocol for its own pickler
    return restore_jitted, (type(obj), {name: value for name, value in states.items() if name != "uuid"})


def restore_cached_property(kind: Any, function: Callable[..., Any]) -> Any:
    """Undo `reduce_wrapper` for functools.cached_property, or one derived from it; its name follows as state."""
    made = kind.__new__(kind)
    functools.cached_property.__init__(made, function)
    return made


def restore_context(kind: Any, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Undo `reduce_wrapper` for what a `@contextmanager` function returns, which decorators of it hold.

    Each call of the decorated function makes another one of these three, and runs the generator of that.
    """
    made = kind.__new__(kind)
    made.func, made.args, made.kwds, made.gen, made.__doc__ = function, arguments, named, None, kind.__doc__
    return made


def restore_scanner(options: dict[str, Any]) -> Any:
    """Undo `reduce_wrapper` for the part of a json.JSONDecoder that is made of C."""
    make: Any = json.scanner.make_scanner
    return make(types.SimpleNamespace(**options))


def restore_validated(
    validate_call: Any, function: Any, hints: dict[str, Any], config: Any, validate_return: bool
) -> Any:
    """Undo `reduce_wrapper` for a function of `pydantic.validate_call`."""
    function.__annotations__ = hints
    return validate_call(config=config, validate_return=validate_return)(function)


def make_generic(name: str) -> Any:
    """A singledispatch function without implementations."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise TypeError(f"{name} has no implementation")

    unknown.__name__ = name
    return functools.singledispatch(unknown)


def fill_generic(
    generic: Any, state: tuple[Mapping[type, Callable[..., Any]], Mapping[str, Any], Mapping[str, Any]]
) -> None:
    """Give a singledispatch function its implementations and names."""
    implementations, attributes, names = state
    for kind, function in implementations.items():
        generic.register(kind, function)
    vars(generic).update(attributes)
    for name, value in names.items():
        setattr(generic, name, value)


def restore_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Undo `reduce_wrapper` for `type name = value`."""
    return _ALIAS(name, value, type_params=parameters)


def restore_jitted(kind: Any, states: dict[str, Any]) -> Any:
    """Undo `reduce_wrapper` for a function that numba compiles."""
    import uuid  # noqa: PLC0415 - for numba alone

    if hasattr(kind, "_set_uuid"):
        states = {"uuid": str(uuid.uuid4()), **states}
    return kind._rebuild(**states)  # noqa: SLF001 - numba's protocol for its own pickler
