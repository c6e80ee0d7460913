"""What the manifest of a package may say: its types, and how long everything may be.

A manifest is decoded data from anywhere, so its types are not what its annotations say. It is stored, listed and sent
to every worker, so all of it has a size.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, get_args

from shardgate import wire
from shardgate.text import safe_line
from shardgate_gateway.errors import PackageInvalid
from shardgate_gateway.etl.container.check import check_container
from shardgate_gateway.etl.plain import problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SOURCE = 64 << 10
"""Characters of `source`; the client cuts it there."""
MAX_REQUIREMENTS = 1000
MAX_REQUIREMENT = 1000
MAX_TEXT = 4096
"""Characters of any other text."""
MAX_MANIFEST = 128 << 10
"""Bytes of a manifest without its source, as JSON."""
MAX_TIMEOUT = 7 * 24 * 3600.0
"""Seconds; timers of the system overflow somewhere beyond."""
_NAME = re.compile(wire.NAME_PATTERN)
_PYTHON = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_HINT = "see shardgate.wire.Manifest"


def check_manifest(manifest: wire.Manifest, function: object) -> None:
    """Refuse what can't be, or is too large.

    Raises:
        PackageInvalid: With the field and the reason.
    """
    for name, good in _checks(manifest).items():
        if not good:
            raise PackageInvalid(f"the manifest's {name} can't be {_shown(manifest, name)}", hint=_HINT)
    if (manifest.kind == "container") is not (manifest.container is not None):
        raise PackageInvalid("the manifest's kind and container don't fit", hint=_HINT)
    if manifest.container is not None:
        check_container(manifest.container)
    elif not isinstance(function, bytes) or not function:
        raise PackageInvalid("the package holds no function")
    for part, limit in ((replace(manifest, source=""), MAX_MANIFEST), (manifest, 8 * MAX_SOURCE)):
        if problem := problem_of(asdict(part), limit, "manifest"):
            raise PackageInvalid(f"the package can't be kept: {problem}", hint=_HINT)


def _checks(manifest: wire.Manifest) -> Mapping[str, object]:
    requirements, timeout = manifest.requirements, manifest.sample_timeout
    return {
        "name": isinstance(manifest.name, str) and _NAME.fullmatch(manifest.name),
        "kind": manifest.kind in get_args(wire.Kind),
        "decoder": _is_text(manifest.decoder),
        "on_error": manifest.on_error in get_args(wire.OnError),
        "sample_timeout": type(timeout) in (int, float) and math.isfinite(timeout) and 0 <= timeout <= MAX_TIMEOUT,
        "python": isinstance(manifest.python, str)
        and (_PYTHON.fullmatch(manifest.python) or (manifest.kind == "container" and len(manifest.python) <= MAX_TEXT)),
        "requirements": len(requirements) <= MAX_REQUIREMENTS
        and all(_is_text(requirement, MAX_REQUIREMENT) for requirement in requirements),
        "entry": _is_text(manifest.entry),
        "source": _is_text(manifest.source, MAX_SOURCE),
        "takes_args": isinstance(manifest.takes_args, bool),
    }


def _is_text(value: object, limit: int = MAX_TEXT) -> bool:
    return isinstance(value, str) and len(value) <= limit


def _shown(manifest: wire.Manifest, name: str) -> str:
    value = getattr(manifest, name)
    if isinstance(value, str | bytes | tuple) and len(value) > MAX_REQUIREMENTS:
        return f"of length {len(value):,}"
    return repr(safe_line(value, 80))
