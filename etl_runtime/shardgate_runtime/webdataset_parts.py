"""The two modules of webdataset that we use, without the rest of it.

Importing `webdataset` runs its `__init__`, which imports everything, and with it torch where that is installed: seconds
that every start would pay, also for a function that has no use for torch. What we need is in `autodecode` and `writer`,
which import torch only when they meet a tensor. So the package is entered into `sys.modules` unopened: we import these
two, and its `__init__` runs the moment somebody asks it for anything, be it an attribute or another of its modules.
User code that says `import webdataset as wds` sees no difference, and shares these modules with us.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Unopened(ModuleType):
    """A package whose `__init__` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        _open(self)
        return getattr(self, name)


class _Opener(MetaPathFinder):
    """Opens the package before another of its modules is imported, as Python does it with any package."""

    def find_spec(self, name: str, _path: object = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get("webdataset")
        if not name.startswith("webdataset.") or not isinstance(package, _Unopened):
            return None
        _open(package)
        module = sys.modules.get(name)  # most are imported by `__init__`, and must not be loaded a second time
        if module is None:
            return None
        # Python takes the spec of a module that came in between, so this one stands in for it until it is loaded.
        module.__spec__ = spec = ModuleSpec(name, _Loaded(module, module.__spec__))
        return spec


class _Loaded(Loader):
    """Gives a module that is there already, and its own spec back to it."""

    def __init__(self, module: ModuleType, spec: ModuleSpec | None) -> None:
        self._module = module
        self._spec = spec

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _open(package: ModuleType) -> None:
    package.__class__ = ModuleType  # from now on a module like any other
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Opener)]
    if package.__spec__ is not None and package.__spec__.loader is not None:
        package.__spec__.loader.exec_module(package)


_package = None
if "webdataset" not in sys.modules and (_spec := find_spec("webdataset")) is not None:
    _package = sys.modules["webdataset"] = module_from_spec(_spec)

from webdataset.autodecode import IMAGE_EXTENSIONS, basichandlers, decoders, gzfilter, imagehandler  # noqa: E402 - see above
from webdataset.autodecode import Decoder as WebdatasetDecoder  # noqa: E402
from webdataset.writer import default_handlers  # noqa: E402

if _package is not None:
    _package.__class__ = _Unopened
    sys.meta_path.insert(0, _Opener())

__all__ = [
    "IMAGE_EXTENSIONS",
    "WebdatasetDecoder",
    "basichandlers",
    "decoders",
    "default_handlers",
    "gzfilter",
    "imagehandler",
]
