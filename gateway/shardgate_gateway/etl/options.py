"""How the owner of a transform wants it run. Not part of its identity: the same code keeps its id and its results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shardgate import wire  # noqa: TC001 (pydantic reads the annotations)
from shardgate_gateway.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


class TransformOptions(BaseModel):
    """What may be set per transform. `workers` and `memory_bytes` hold from the next start of its runtime.

    Attributes:
        cache: Which results are kept: none, all, or those that are small or asked for again.
        workers: Worker processes; 0 takes `etl.workers`.
        memory_bytes: Bytes a worker may allocate; 0 takes `etl.memory_bytes`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: wire.CachePolicy = "auto"
    workers: int = Field(0, ge=0, le=1024)
    memory_bytes: int = Field(0, ge=0)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TransformOptions:
        """Read options that came with a request, numbers as text or not.

        Raises:
            BadRequest: An unknown option or a value it can't have.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = ", ".join(cls.model_fields)
            raise BadRequest(f"transform option {name!r}: {first['msg']}", hint=f"options are {known}") from error
