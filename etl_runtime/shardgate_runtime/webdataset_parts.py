"""The two modules of webdataset that we use, without the rest of it.

Importing `webdataset` runs its `__init__`, which imports everything, and with it torch where that is installed: seconds
that every start would pay, also for a function that has no use for torch. What we need is in `autodecode` and `writer`,
which import torch only when they meet a tensor. So the package is entered into `sys.modules` unopened: we import these
two, and its `__init__` runs the moment somebody asks it for anything. User code that says `import webdataset as wds`
sees no difference, and shares these modules with us.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Unopened(ModuleType):
    """A package whose `__init__` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment] # from now on a module like any other
        spec = self.__spec__
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        return getattr(self, name)


_package = None
if "webdataset" not in sys.modules and (_spec := find_spec("webdataset")) is not None:
    _package = sys.modules["webdataset"] = module_from_spec(_spec)

from webdataset.autodecode import IMAGE_EXTENSIONS, basichandlers, decoders, gzfilter, imagehandler  # noqa: E402 - see above
from webdataset.autodecode import Decoder as WebdatasetDecoder  # noqa: E402
from webdataset.writer import default_handlers  # noqa: E402

if _package is not None:
    _package.__class__ = _Unopened

__all__ = [
    "IMAGE_EXTENSIONS",
    "WebdatasetDecoder",
    "basichandlers",
    "decoders",
    "default_handlers",
    "gzfilter",
    "imagehandler",
]
