"""torch's pytree takes a lazy sample for the dict that it is.

`torch.utils._pytree` finds containers by their exact type: it would hand a subclass of dict on as if it were one value,
and a transform of torchvision's v2, called with a whole sample, would change nothing without a word. So the sample is
entered as soon as the module is there, also where user code imports torch in the middle of a sample.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

from shardgate_runtime.lazy_sample import Sample

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PYTREE = "torch.utils._pytree"


def watch() -> None:
    """Enter the sample into torch's pytree, now or when torch is imported. Idempotent."""
    module = sys.modules.get(PYTREE)
    if module is not None:
        _enter(module)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _enter(module: Any) -> None:
    nodes = getattr(module, "SUPPORTED_NODES", {})
    if dict in nodes:
        nodes.setdefault(Sample, nodes[dict])


class _Watch(MetaPathFinder):
    """Adds to the import of that module, once."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != PYTREE:
            return None
        sys.meta_path.remove(self)
        found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path))
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_enter(module: ModuleType) -> None:
                load(module)
                _enter(module)

            spec.loader.exec_module = load_and_enter  # type: ignore[method-assign]
        return spec
