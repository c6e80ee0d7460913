"""The user's code: checked, loaded once, and ready to be called.

Loading happens in the parent, before it forks, so every worker shares the imported modules. A class is instantiated,
and `setup()` called, in each worker: models, CUDA contexts and open files do not survive a fork.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement

from shardgate import unpickling, wire
from shardgate.arguments import args_style
from shardgate_runtime import user_lines
from shardgate_runtime.failures import StartupError, describe, user_traceback
from shardgate_runtime.generators import generators
from shardgate_runtime.orphans import one_process
from shardgate_runtime.provenance import environment_of
from shardgate_runtime.seeds import seeded_by

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

TransformFunction = Callable[[Any, str], Any]
"""Called with a sample dict or bytes, and the request's `args`."""


@dataclass(frozen=True)
class Package:
    """A loaded transform.

    Attributes:
        environment: What its results depend on beside it; see `provenance.py`.
    """

    id: str
    manifest: wire.Manifest
    target: Any
    environment: dict[str, str] = field(default_factory=dict)

    def instantiate(self) -> TransformFunction:
        """The function to call, with `setup()` done.

        Raises:
            StartupError: User code failed, or the result can't be called.
        """
        try:
            with one_process(), seeded_by(self.id):
                target = self.target() if isinstance(self.target, type) else self.target
                setup = getattr(target, "setup", None)
                if callable(setup):
                    setup()
        except BaseException as error:
            raise _user_error(f"setting up {self.manifest.entry or self.manifest.name} failed", error) from error
        if not callable(target):
            raise StartupError(
                f"{self.manifest.entry or self.manifest.name} can't be called",
                "give the class a __call__(self, sample) method",
            )
        generators.look(target)
        return _with_args(target)


def load_package(path: Path, transform_id: str) -> Package:
    """Read, check and unpickle.

    Raises:
        StartupError: The file is not that transform, this Python can't run it, or its import fails.
    """
    try:
        data = path.read_bytes()
        manifest, function = wire.unpack_package(data)
    except (OSError, ValueError) as error:
        raise StartupError(f"the package can't be read: {error}") from error
    actual = wire.transform_id(manifest.name, data)
    if actual != transform_id:
        raise StartupError(f"the package is {actual}, not {transform_id}", "register the transform again")
    _check_python(manifest.python)
    _check_requirements(manifest.requirements)
    user_lines.remember(manifest.entry, manifest.source)
    try:
        with one_process(), seeded_by(transform_id):
            target = unpickling.loads(function)
    except BaseException as error:
        raise _user_error("loading the function failed", error) from error
    return Package(transform_id, manifest, target, environment_of(manifest.requirements))


def _check_python(wanted: str) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if wanted and wanted != running:
        raise StartupError(
            f"the function was pickled by Python {wanted}, but the workers run Python {running}",
            f"register it from Python {running}, or run the workers with Python {wanted} (setting etl.python)",
        )


def _check_requirements(requirements: tuple[str, ...]) -> None:
    missing = []
    for text in requirements:
        try:
            requirement = Requirement(text)
            installed = metadata.version(requirement.name)
        except InvalidRequirement as error:
            raise StartupError(f"the package has a malformed requirement: {error}") from error
        except metadata.PackageNotFoundError:
            missing.append(text)
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                log.warning("the function was captured with %s, the workers have %s", text, installed)
    if missing:
        raise StartupError(
            f"the function needs {', '.join(missing)}, not installed where the workers run",
            f"install it there: pip install {' '.join(missing)}",
        )


def _user_error(what: str, error: BaseException) -> StartupError:
    hint = "the module must be importable where the workers run" if isinstance(error, ImportError) else ""
    return StartupError(f"{what}: {describe(error)}\n{user_traceback(error)}", hint)


def _with_args(function: Callable[..., Any]) -> TransformFunction:
    """Hand `args` to functions that ask for it."""
    style = args_style(function)
    if style == "keyword":
        return lambda value, args: function(value, args=args)
    return function if style == "positional" else lambda value, _args: function(value)
