"""Bugs of a function that can be seen before it is sent: parameters that nobody passes, names that nobody defined.

No working code may be refused. So a name that is not defined is an error only in the part of the function that runs
always, before its first branch; anywhere else it may be in a case that never comes, and is warned of. A decorator that
passes further parameters is asked for its own, not for those of what it wraps.
"""

from __future__ import annotations

import builtins
import difflib
import dis
import functools
import inspect
import types
import warnings
from typing import TYPE_CHECKING, Any

from shardgate.arguments import args_style
from shardgate.errors import CaptureError
from shardgate.notices import CaptureWarning
from shardgate.origins import is_importable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DYNAMIC = frozenset(
    {"exec", "eval", "globals", "vars", "locals", "setattr", "NameError", "__import__", "import_module"}
)
"""Code that uses one of these may define names in its own way, or expect that they are missing."""
JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
ENDS = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "YIELD_VALUE"})


def check_call(function: Callable[..., Any]) -> None:
    """Raise CaptureError if a worker's call can't fit the parameters, or a class can't be instantiated."""
    if isinstance(function, type):
        _check_class(function)
        return
    signature = _signature(function)
    if signature is not None:
        _check_parameters(_name(function), function, signature)


def _check_class(kind: type) -> None:
    if kind.__module__ == "builtins":
        return
    if not any("__call__" in vars(base) for base in kind.__mro__):
        hint = "give it a __call__(self, sample), or pass a function"
        raise CaptureError(f"instances of the class {kind.__qualname__} can't be called", hint=hint)
    made = _signature(kind)
    if made is not None and type(kind).__call__ is type.__call__:
        try:
            made.bind()
        except TypeError as error:
            raise CaptureError(
                f"each worker makes an instance of {kind.__qualname__} without arguments: {error}",
                hint="give the parameters defaults, pass an instance, or a functools.partial of a function",
            ) from None
    called: Any = kind.__call__
    signature = _signature(called) if _has_plain_call(kind) else None
    if signature is not None and (parameters := list(signature.parameters.values())):
        own = signature.replace(parameters=parameters[1:]) if parameters[0].kind in _POSITIONAL else signature
        _check_parameters(f"{kind.__qualname__}.__call__", kind, own)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _signature(function: Any) -> inspect.Signature | None:
    """Of a function itself, not of one that it wraps; None where that can't be relied on, or for a library's own."""
    inner = _innermost(function)
    if hasattr(inner, "__signature__") or (inner is function and is_importable(inner)):
        return None
    if not isinstance(inner, type | types.FunctionType | types.MethodType) and not _has_plain_call(type(inner)):
        return None
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin does not tell
        return None


def _has_plain_call(kind: type) -> bool:
    """Whether instances are called by a method; `inspect` misreads a static one."""
    return isinstance(inspect.getattr_static(kind, "__call__", None), types.FunctionType)


def _check_parameters(name: str, function: Callable[..., Any], signature: inspect.Signature) -> None:
    style = args_style(function)
    given: tuple[tuple[Any, ...], dict[str, Any]] = (
        ((None,), {"args": ""}) if style == "keyword" else ((None, "") if style == "positional" else (None,), {})
    )
    try:
        signature.bind(*given[0], **given[1])
    except TypeError as error:
        called = f"a worker calls it with the sample, or with the sample and args ({error})"
        raise CaptureError(
            f"{name}{_plain(signature)} does not fit: {called}",
            hint="write it as def f(sample) or def f(sample, args), and give other parameters defaults, or bind them "
            "with functools.partial",
        ) from None


def _plain(signature: inspect.Signature) -> inspect.Signature:
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=signature.empty)


def check_names(functions: Iterable[types.FunctionType], target: object) -> None:
    """Look for names that no code of these functions can find.

    Args:
        functions: All that travel by value.
        target: What is sent.

    Raises:
        CaptureError: What is called uses one whenever it runs.
    """
    functions, entry = list(functions), _called(target)
    codes = [function.__code__ for function in functions]
    if not DYNAMIC.isdisjoint(name for code in codes for name in _names(code)):
        return
    stored = {name for code in codes for name in _stored(code)}
    for function in functions:
        around = function.__globals__
        if type(around) is not dict:
            continue
        known = stored | around.keys() | vars(builtins).keys()
        unknown = [name for name in _loaded(function.__code__) if name not in known]
        if not unknown:
            continue
        certain = set(_always_loaded(function.__code__)) if function is entry else set()
        first = next((name for name in unknown if name in certain), "")
        message = f"{function.__qualname__} uses {', '.join(dict.fromkeys(unknown))}, which is not defined"
        if first:
            raise CaptureError(message, hint=_advice(first, known | set(function.__code__.co_varnames)))
        warnings.warn(f"{message}; it fails where it gets there", CaptureWarning, stacklevel=5)


def _called(target: Any) -> object:
    """The function that a worker's call begins in."""
    target = _innermost(target)
    if isinstance(target, types.MethodType):
        return target.__func__
    if isinstance(target, types.FunctionType):
        return target
    kind: Any = target if isinstance(target, type) else type(target)
    return kind.__call__


def _advice(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else "define or import it first: a function is sent as it is now"


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and all that is inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names(code: types.CodeType) -> Iterator[str]:
    for one in _codes(code):
        yield from one.co_names


def _stored(code: types.CodeType) -> Iterator[str]:
    for one in _codes(code):
        for instruction in dis.get_instructions(one):
            if instruction.opname in {"STORE_GLOBAL", "STORE_NAME", "STORE_ATTR"}:
                yield instruction.argval


def _loaded(code: types.CodeType) -> Iterator[str]:
    for one in _codes(code):
        for instruction in dis.get_instructions(one):
            if instruction.opname == "LOAD_GLOBAL":
                yield instruction.argval


def _always_loaded(code: types.CodeType) -> Iterator[str]:
    """Globals that are used whenever the function runs: before the first branch and the first `try` or `with`."""
    guarded = min((entry.start for entry in getattr(dis.Bytecode(code), "exception_entries", ())), default=None)
    for instruction in dis.get_instructions(code):
        if instruction.opcode in JUMPS or instruction.opname in ENDS:
            return
        if guarded is not None and instruction.offset >= guarded:
            return
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval


def _name(function: Any) -> str:
    function = _innermost(function)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function
