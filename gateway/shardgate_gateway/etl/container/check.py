"""What a container's manifest may say; it comes from anybody who may register."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shardgate import wire
from shardgate_gateway.errors import PackageInvalid
from shardgate_gateway.etl.plain import problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Open(BaseModel):
    """A part of a pod template, as far as the gateway looks into it. The rest is Kubernetes' to check."""

    model_config = ConfigDict(extra="allow")


class _Named(_Open):
    name: str = ""


class _VariableSource(_Open):
    secretKeyRef: _Named | None = None  # noqa: N815 (here and below: Kubernetes' names)


class _Variable(_Named):
    valueFrom: _VariableSource | None = None  # noqa: N815


class _Variables(_Open):
    secretRef: _Named | None = None  # noqa: N815


class _Mount(_Named):
    mountPath: str = ""  # noqa: N815


class _PodContainer(_Named):
    image: str = ""
    env: list[_Variable] | None = None
    envFrom: list[_Variables] | None = None  # noqa: N815
    volumeMounts: list[_Mount] | None = None  # noqa: N815


class _Volume(_Named):
    secret: dict[str, Any] | None = None
    persistentVolumeClaim: dict[str, Any] | None = None  # noqa: N815


class _PodSpec(_Open):
    containers: list[_PodContainer] = Field(min_length=1)
    initContainers: list[_PodContainer] | None = None  # noqa: N815
    volumes: list[_Volume] | None = None
    imagePullSecrets: list[_Named] | None = None  # noqa: N815
    tolerations: list[dict[str, Any]] | None = None


class _Metadata(_Open):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Pod(_Open):
    metadata: _Metadata | None = None
    spec: _PodSpec


_CONTAINER = TypeAdapter(wire.Container)
_RULES: Mapping[str, str] = {
    "image": r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,499}|",
    "health": r"/[\x21-\x7e]{0,500}",
    "content_type": r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(; ?[\x20-\x7e]{1,500})?",
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HINT = "see shardgate.wire.Container"
MAX_BYTES = 96 << 10
"""Of a container as JSON."""


def check_container(container: wire.Container) -> None:
    """Refuse what is not of the right types, or could not stand where it will be put.

    Raises:
        PackageInvalid: With the field and the reason.
    """
    if problem := problem_of({name: getattr(container, name) for name in container.__slots__}, MAX_BYTES):
        raise PackageInvalid(f"the container's {problem}", hint=_HINT)
    _check_types(container)
    _check_values(container)


def _check_types(container: wire.Container) -> None:
    try:
        checked = _CONTAINER.validate_python(asdict(container))
        if container.pod is not None:
            _Pod.model_validate(container.pod)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise PackageInvalid(f"the container's {field}: {first['msg']}", hint=_HINT) from error
    if checked != container:
        raise PackageInvalid("the container's numbers and texts are mixed up", hint=_HINT)


def _check_values(container: wire.Container) -> None:
    for field, pattern in _RULES.items():
        if not re.fullmatch(pattern, value := getattr(container, field)):
            raise PackageInvalid(f"the container's {field} can't be {value[:80]!r}", hint=_HINT)
    if not 0 < container.port < 1 << 16:
        raise PackageInvalid(f"the container's port can't be {container.port}", hint=_HINT)
    if odd := [name for name in container.env if not _VARIABLE.fullmatch(name)]:
        raise PackageInvalid(f"the container's env: {odd[0]!r} is no name of a variable", hint=_HINT)
    if not (container.image or container.command or container.pod):
        raise PackageInvalid("the container has no image, no command and no pod", hint="give one of them")
    if container.pod is not None and container.image:
        raise PackageInvalid("the container has an image and a pod template", hint="name the image in the template")
