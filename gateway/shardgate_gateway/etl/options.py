"""How the owner of a transform wants it run. Not part of its identity: the same code keeps its id and its results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shardgate import wire  # noqa: TC001 (pydantic reads the annotations)
from shardgate.text import safe_line, safe_text
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.etl.plain import problem_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Quantity = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,18}(\.[0-9]{1,9})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?)?$")]
"""As Kubernetes writes them: `500m` is half a CPU, `2Gi` is memory. "" leaves it to the gateway."""
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
RESERVED_ENV = "SHARDGATE_"
MOST = 100_000
"""Of anything that is counted."""
MAX_BYTES = 64 << 10
"""Of all options as JSON."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True)


class Resources(_Part):
    """What one pod may use."""

    cpu: Quantity = ""
    memory: Quantity = ""
    gpus: int = Field(0, ge=0, le=MOST, alias="nvidia.com/gpu")


class Toleration(_Part):
    """As in a pod's `tolerations`."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    tolerationSeconds: int | None = Field(None, ge=-(1 << 31), lt=1 << 31)  # noqa: N815 (Kubernetes' name)


class TransformOptions(_Part):
    """What may be set per transform. All but `cache` holds from the next start of its runtime.

    Attributes:
        cache: Which results are kept: none, all, or those that are small or asked for again.
        workers: Worker processes, in each pod; 0 takes `etl.workers`, or as many as the pod has CPUs.
        memory_bytes: Bytes a worker may allocate; 0 takes `etl.memory_bytes`.
        env: Environment variables of the workers.
        resources: What a pod may use, `{"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": 1}`.
        replicas: So many pods, always; 0 lets `min_replicas` and `max_replicas` decide.
        min_replicas: Pods that stay when nobody asks.
        max_replicas: Pods that there may be; 0 takes `kubernetes.max_replicas`.
        node_selector: Labels of the nodes that fit.
        tolerations: Taints of nodes that don't matter.
        secrets: Secrets whose keys become environment variables of the workers.
        image: Run in this image instead of one of the gateway's.
    """

    cache: wire.CachePolicy = "auto"
    workers: int = Field(0, ge=0, le=1024)
    memory_bytes: int = Field(0, ge=0, le=1 << 50)
    env: dict[EnvName, str] = Field(default_factory=dict)
    resources: Resources = Resources()
    replicas: int = Field(0, ge=0, le=MOST)
    min_replicas: int = Field(0, ge=0, le=MOST)
    max_replicas: int = Field(0, ge=0, le=MOST)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    secrets: tuple[ObjectName, ...] = ()
    image: str = Field("", max_length=500)

    @model_validator(mode="after")
    def _fits_together(self) -> TransformOptions:
        if problem := problem_of(self.model_dump(mode="python"), MAX_BYTES):
            raise ValueError(f"{problem}")
        if self.replicas and (self.min_replicas or self.max_replicas):
            raise ValueError("replicas is a fixed number: leave out min_replicas and max_replicas")
        if self.max_replicas and self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be above max_replicas")
        if reserved := [name for name in self.env if name.startswith(RESERVED_ENV)]:
            raise ValueError(f"env: {reserved[0]} belongs to shardgate")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TransformOptions:
        """Read options that came with a request: numbers as text or not, what has parts as JSON or not.

        Raises:
            BadRequest: An unknown option or a value it can't have.
        """
        decoded = {name: _decoded(name, value) for name, value in values.items()}
        if problem := problem_of(decoded, 2 * MAX_BYTES):
            raise BadRequest(f"transform options: {problem}")
        try:
            return cls.model_validate(decoded)
        except ValidationError as error:
            first = error.errors()[0]
            name = safe_line(".".join(str(part) for part in first["loc"]), 200)
            known = ", ".join(cls.model_fields)
            subject = f"transform option {name!r}" if name else "transform options"
            message = safe_text(first["msg"].removeprefix("Value error, "))
            raise BadRequest(f"{subject}: {message}", hint=f"options are {known}") from error


_WITH_PARTS = ("env", "resources", "node_selector", "tolerations", "secrets")


def _decoded(name: str, value: Any) -> Any:
    if name not in _WITH_PARTS or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # which pydantic refuses, by its name
