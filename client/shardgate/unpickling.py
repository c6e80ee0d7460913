"""Loads what `pickling.py` made, so that classes and modules of the user's are where others look for them.

A class that came by value is in no module. Then a sample's `pkl` that holds an instance of it can't be decoded or
encoded (pickle looks for `__main__.Label`), and decorators that look their class's module up (`dataclass`, pydantic)
find none. So each class becomes an attribute of the module that it says it is from, and a module that this process does
not have is an empty one.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

from shardgate.origins import BY_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable


def loads(data: bytes) -> Any:
    """Unpickle a function that was sent here."""
    return _Loader(io.BytesIO(data)).load()


class _Loader(pickle.Unpickler):
    def find_class(self, module_name: str, name: str, /) -> Any:
        found = super().find_class(module_name, name)
        return MAKERS.get(found, found) if isinstance(found, types.FunctionType) else found


def _make_class(*args: Any) -> Any:
    made = cloudpickle._make_skeleton_class(*args)  # noqa: SLF001 - what the pickle calls
    return _published(made, args[3].get("__module__"))


def _make_enum(*args: Any) -> Any:
    return _published(cloudpickle._make_skeleton_enum(*args), args[4])  # noqa: SLF001 - what the pickle calls


def _make_function(code: types.CodeType, around: dict[str, Any], *args: Any) -> Any:
    _module(around.get("__name__"))
    return cloudpickle._make_function(code, around, *args)  # noqa: SLF001 - what the pickle calls


MAKERS: dict[Any, Callable[..., Any]] = {
    cloudpickle._make_skeleton_class: _make_class,  # noqa: SLF001 - what the pickle calls
    cloudpickle._make_skeleton_enum: _make_enum,  # noqa: SLF001
    cloudpickle._make_function: _make_function,  # noqa: SLF001
}


def _published(made: type, module_name: str | None) -> type:
    """Put a class where its name says it is, unless that is taken."""
    module = _module(module_name)
    if module is not None:
        vars(module).setdefault(made.__name__, made)
    return made


def _module(name: str | None) -> types.ModuleType | None:
    """The user's module of this name, empty at first; None if this process has an installed one."""
    if not name:
        return None
    if name not in BY_VALUE and name not in STAND_INS:
        with suppress(ImportError, ValueError):
            if name in sys.modules or find_spec(name) is not None:
                return None
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name, "A module of the user's, of which classes were sent.")
        STAND_INS.add(name)
    return sys.modules[name]


STAND_INS: set[str] = set()
"""Names of the modules that were made here."""
