"""What a container's manifest may say; it comes from anybody who may register."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from shardgate import wire
from shardgate_gateway.errors import PackageInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTAINER = TypeAdapter(wire.Container)
_RULES: Mapping[str, str] = {
    "image": r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,499}|",
    "health": r"/[\x21-\x7e]{0,500}",
    "content_type": r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[\x20-\x7e]+)?",
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HINT = "see shardgate.wire.Container"


def check_container(container: wire.Container) -> None:
    """Refuse what is not of the right types, or could not stand where it will be put.

    Raises:
        PackageInvalid: With the field and the reason.
    """
    try:
        checked = _CONTAINER.validate_python(asdict(container))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise PackageInvalid(f"the container's {field}: {first['msg']}", hint=_HINT) from error
    if checked != container:
        raise PackageInvalid("the container's numbers and texts are mixed up", hint=_HINT)
    for field, pattern in _RULES.items():
        if not re.fullmatch(pattern, value := getattr(container, field)):
            raise PackageInvalid(f"the container's {field} can't be {value[:80]!r}", hint=_HINT)
    if not 0 < container.port < 1 << 16:
        raise PackageInvalid(f"the container's port can't be {container.port}", hint=_HINT)
    if odd := [name for name in container.env if not _VARIABLE.fullmatch(name)]:
        raise PackageInvalid(f"the container's env: {odd[0]!r} is no name of a variable", hint=_HINT)
    if any("\0" in text for text in (*container.command, *container.args, *container.env.values())):
        raise PackageInvalid("the container's command or env holds a NUL character", hint=_HINT)
    if not (container.image or container.command or container.pod):
        raise PackageInvalid("the container has no image, no command and no pod", hint="give one of them")
    if container.pod is not None and container.image:
        raise PackageInvalid("the container has an image and a pod template", hint="name the image in the template")
