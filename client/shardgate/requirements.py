"""Which installed distributions a set of modules comes from, pinned to the versions that are installed here.

`pip freeze` would name everything that happens to be in the environment. We name what the function imports; what these
in turn need is their installer's business.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from shardgate.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable

IMPLIED = frozenset({"shardgate", "cloudpickle"})
"""Every worker has these, in its own versions."""


def pinned(modules: Iterable[str], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Requirements like `"torch==2.6.0"` for these modules, sorted by name.

    Args:
        modules: Full names of imported modules; those of the standard library and unknown ones need nothing.
        extra: Requirements the user adds; one of a name found here replaces the pin.

    Raises:
        CaptureError: One of `extra` is not a requirement.
    """
    names = {name for module in modules for name in distributions_of(module)} - IMPLIED
    # The public version: a local label like +cu132 names a build, which an index may not have.
    found = {name: f"{name}=={Version(metadata.version(name)).public}" for name in names}
    for text in extra:
        try:
            found[canonicalize_name(Requirement(text).name)] = text
        except InvalidRequirement as error:
            raise CaptureError(
                f"{text!r} is not a requirement: {error}", hint='write it like "torch==2.6.0"'
            ) from error
    return tuple(found[name] for name in sorted(found))


@cache
def distributions_of(module: str) -> frozenset[str]:
    """Canonical names of the distributions that provide a module; several only where a namespace is shared."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return frozenset()
    candidates = {canonicalize_name(name) for name in _providers().get(top, ())}
    if len(candidates) > 1:
        owners = {name for name in candidates if _owns(name, module)}
        candidates = owners or candidates
    return frozenset(candidates)


@cache
def _providers() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _owns(distribution: str, module: str) -> bool:
    stem = module.replace(".", "/")
    return any(str(file).startswith((f"{stem}/", f"{stem}.")) for file in metadata.files(distribution) or ())
