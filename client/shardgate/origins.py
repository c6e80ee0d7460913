"""Where code comes from: which modules a worker has too, and under which name an object can be imported there."""

from __future__ import annotations

import dis
import sys
import sysconfig
import types
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardgate.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FILE_MODULE = "__etl__"
"""Name of a module that `load_function` made of a file."""
BY_VALUE = ("__main__", "__mp_main__", FILE_MODULE)
OURS = ("shardgate", "shardgate_runtime")
"""Every worker has these, also in a development checkout, where they look local."""
REFLECTION = frozenset({"getattr", "hasattr", "attrgetter", "methodcaller"})
"""Code that uses one of these may name an attribute by a string."""


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


def home_of(obj: Any, name: str) -> str | None:
    """The module that a worker can import this object from, by this name; None if there is none.

    Objects of C often don't say. The user's modules are never the answer, even if they were the first to import it. Of
    the others it is one of the distribution that defines it, then the most public, and the shortest: the same one,
    whatever else was imported before.
    """
    stated = getattr(obj, "__module__", None)
    if isinstance(stated, str) and stated in sys.modules and not is_local(stated) and _holds(stated, name, obj):
        return stated
    homes = [module for module in list(sys.modules) if _holds(module, name, obj) and not is_local(module)]
    makers = {module.partition(".")[0] for module in homes if _is_compiled(module)}
    return min(homes, key=lambda module: (module.partition(".")[0] not in makers, *_publicity(module)), default=None)


def _holds(module_name: str, name: str, obj: Any) -> bool:
    """Whether the module has this object by this name; lazy attributes are not asked for."""
    first, *rest = name.split(".")
    found = getattr(sys.modules.get(module_name), "__dict__", {}).get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found is obj


def _is_compiled(module_name: str) -> bool:
    file = getattr(sys.modules[module_name], "__file__", None)
    return module_name in sys.builtin_module_names or str(file).endswith(tuple(EXTENSION_SUFFIXES))


def _publicity(module_name: str) -> tuple[int, int, str]:
    parts = module_name.split(".")
    return sum(part.startswith("_") for part in parts), len(parts), module_name


def is_importable(obj: Any) -> bool:
    """Whether this function or wrapper is an attribute of an installed module, by its own name."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or is_local(module):
        return False
    return _holds(module, name, obj)


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


def used_submodules(code: types.CodeType, values: Iterable[object]) -> list[types.ModuleType]:
    """Submodules of packages among these values that the code can reach from them, sorted by name.

    `package.submodule` in the code does not import it in the worker: somebody did here. Strings count where the code
    looks attributes up by strings.
    """
    values = list(values)
    names = set(_names(code))
    if names & REFLECTION:
        names.update(part for text in _strings(code, values) for part in text.split("."))
    packages = [value.__name__ for value in values if isinstance(value, types.ModuleType) and value.__package__]
    return [
        module
        for name, module in sorted(sys.modules.items())
        for package in packages
        if name.startswith(f"{package}.") and names.issuperset(name[len(package) + 1 :].split("."))
    ]


def uses_reflection(code: types.CodeType) -> bool:
    """Whether the code may look attributes up by strings."""
    return not REFLECTION.isdisjoint(_names(code))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _strings(code: types.CodeType, values: Iterable[object]) -> Iterator[str]:
    yield from (value for value in values if isinstance(value, str))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _strings(constant, ())
        elif isinstance(constant, str):
            yield constant
