"""What is to be made of an object, and who asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardgate_gateway.etl.pipeline import pipeline_id, pipeline_query

if TYPE_CHECKING:
    from shardgate_gateway.etl.pipeline import Stage
    from shardgate_gateway.etl.transform_record import TransformRecord


@dataclass(frozen=True, slots=True)
class Recipe:
    """Transforms to apply one after the other, and what their randomness depends on.

    With the version of an object it says which bytes come out, and nothing else does.

    Attributes:
        stages: The transforms with their args; at least one.
        seed, epoch: The same for all of them.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    epoch: int = 0

    @property
    def id(self) -> str:
        """Id of the transform, or of the pipeline."""
        return pipeline_id([stage.record for stage in self.stages])

    @property
    def record(self) -> TransformRecord:
        """The last transform, whose policy says whether the result is kept."""
        return self.stages[-1].record

    @property
    def args(self) -> str:
        """Of the last transform."""
        return self.stages[-1].args

    @property
    def before(self) -> tuple[Stage, ...]:
        """The stages whose result is the input of the last one."""
        return self.stages[:-1]

    @property
    def is_random(self) -> bool:
        """A sample of one of them drew random numbers."""
        return any(stage.record.is_random for stage in self.stages)

    def input_query(self) -> dict[str, str]:
        """The query under which the input of the last stage is found; empty where that is the object itself."""
        return pipeline_query(self.before, self.seed, self.epoch) if self.before else {}

    def beginning(self, count: int) -> Recipe:
        """The first stages alone."""
        return replace(self, stages=self.stages[:count])


@dataclass(frozen=True, slots=True)
class Asker:
    """The request that a result is made for: it changes no byte of it.

    Attributes:
        request_id: For logs.
        stages: Of the whole pipeline, of which a worker of a later stage reads the beginning; 0 for any other reader.
    """

    request_id: str
    stages: int = 0
