"""From a function of the user to the package that a worker runs.

What may be sent: a function, a lambda, a partial, a callable object (torchvision's Compose), or a class, of which each
worker makes one instance and calls its `setup()` once. The package holds its pickle (`pickling.py`), the requirements
(`requirements.py`), and what people want to know of it. The same code gives the same bytes in any process.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from shardgate import checks, pickling, requirements, sizes, wire
from shardgate.arguments import args_style
from shardgate.errors import CaptureError, InvalidName
from shardgate.origins import FILE_MODULE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

MAX_SOURCE = 64 << 10


def capture(
    function: Callable[..., Any],
    *,
    name: str = "",
    kind: wire.Kind = "sample",
    decoder: str = "pil",
    on_error: wire.OnError = "fail",
    sample_timeout: float = 0.0,
    extra_requirements: Iterable[str] = (),
) -> tuple[wire.Manifest, bytes]:
    """Make the package of a function.

    Args:
        function: What may be sent, see above.
        name: Of the transform; the function's own, made fit for DNS, by default.
        kind: As in `wire.Manifest`.
        decoder: As in `wire.Manifest`.
        on_error: As in `wire.Manifest`.
        sample_timeout: As in `wire.Manifest`.
        extra_requirements: Beside those that are found; one of the same name replaces the pin.

    Returns:
        The manifest and the package's bytes.

    Raises:
        CaptureError: It can't be called with a sample, uses a name that is not defined, or can't be sent.
        InvalidName: The name does not fit.
    """
    if not callable(function):
        raise CaptureError(f"a transform must be callable, and {type(function).__qualname__} is not")
    pickled = pickling.dumps(function)
    checks.check_call(function)
    checks.check_names(pickled.functions, function)
    manifest = wire.Manifest(
        name=checked_name(name or default_name(function)),
        kind=kind,
        decoder=decoder,
        on_error=on_error,
        sample_timeout=float(sample_timeout),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        requirements=requirements.pinned(pickled.modules, extra_requirements),
        entry=_qualname(function),
        source=_source(function),
        takes_args=args_style(function) != "none",
    )
    sizes.warn_if_large(manifest.name, len(pickled.data), function, pickled.functions)
    return manifest, wire.pack_package(manifest, pickled.data)


def load_function(spec: str) -> Callable[..., Any]:
    """Import `FILE:FUNCTION`, as the command line names a transform.

    The file is run like a script: modules beside it can be imported, and its code is sent by value.

    Raises:
        CaptureError: No such file or function, or the file fails.
    """
    file, _, attribute = spec.rpartition(":")
    path = Path(file).absolute()
    if not attribute or not path.is_file():
        raise CaptureError(
            f"{spec!r} does not name a function in a file", hint="write FILE:FUNCTION, like etl.py:wd_transform"
        )
    found = spec_from_file_location(FILE_MODULE, path)
    if found is None or found.loader is None:
        raise CaptureError(f"{path.name} is not a Python file")
    module = sys.modules[FILE_MODULE] = module_from_spec(found)
    sys.path.insert(0, str(path.parent))
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise CaptureError(f"{path.name} can't be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    try:
        function: Callable[..., Any] = getattr(module, attribute)
    except AttributeError:
        raise CaptureError(f"{path.name} has no {attribute!r}") from None
    return function


def checked_name(name: str) -> str:
    """Return a transform's name, or say what is wrong with it."""
    if re.fullmatch(wire.NAME_PATTERN, name):
        return name
    fit = fitting_name(name)
    raise InvalidName(
        f"{name!r} can't name a transform",
        hint=f"use up to {wire.MAX_NAME} of a-z, 0-9 and -, beginning and ending with a letter or digit"
        + (f', like "{fit}"' if fit else ""),
    )


def default_name(function: Callable[..., Any]) -> str:
    """A function's own name, made fit: `wd_transform` becomes "wd-transform"."""
    return fitting_name(_qualname(function).rpartition(".")[2]) or "transform"


def fitting_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[: wire.MAX_NAME].strip("-")


def _innermost(function: Any) -> Any:
    return _innermost(function.func) if isinstance(function, functools.partial) else function


def _qualname(function: Any) -> str:
    function = _innermost(function)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _source(function: Any) -> str:
    function = _innermost(function)
    try:
        text = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):
        return ""  # typed into an interpreter, or built in
    return textwrap.dedent(text)[:MAX_SOURCE]
