"""What the relay is asked for: one object version through one recipe; and what it finds out on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardgate_gateway.etl.pipeline import name_stage

if TYPE_CHECKING:
    from shardgate import wire
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.errors import GatewayError
    from shardgate_gateway.etl.pipeline import Stage
    from shardgate_gateway.etl.recipe import Asker, Recipe
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.stores.base import ObjectMeta


@dataclass(slots=True)
class Found:
    """What is known of a result when it is complete, and was not when it began.

    Attributes:
        environment: Of the workers that make it.
        gaps: Samples that were left out for a cause that may pass. A worker that was lost counts its own as one.
        unstable: Samples that came out differently when they were run again.
    """

    environment: dict[str, str] = field(default_factory=dict)
    gaps: int = 0
    unstable: int = 0

    def add(self, stats: wire.Stats) -> None:
        self.gaps += stats.samples_gaps
        self.unstable += stats.samples_unstable

    @property
    def may_be_kept(self) -> bool:
        """Another run would most probably give the same bytes."""
        return not self.gaps and not self.unstable


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformRequest:
    """One object version through the last stage of one recipe.

    Attributes:
        recipe: What is made. The stages before the last one make its input.
        source: The raw object.
        reading: Of it; stays open until the stream is closed.
        asker: The request that wants it.
        version: Of the input, where that is the result of earlier stages.
        found: What the workers said of the result, while it is computed and after.
    """

    recipe: Recipe
    source: Source
    reading: Reading
    asker: Asker
    version: ObjectMeta | None = None
    found: Found = field(default_factory=Found)

    @property
    def record(self) -> TransformRecord:
        return self.recipe.record

    @property
    def before(self) -> tuple[Stage, ...]:
        return self.recipe.before

    @property
    def stages(self) -> int:
        """Of the whole pipeline."""
        return self.asker.stages or len(self.recipe.stages)

    @property
    def input_version(self) -> ObjectMeta:
        """Of what the worker reads."""
        return self.version or self.reading.meta

    @property
    def reads_once(self) -> bool:
        """Reading the input again need not give the same bytes, unless it lies here."""
        if self.before:
            return True
        is_here = self.reading.file is not None or self.reading.content is not None
        return self.reading.meta.weak and not is_here

    @property
    def anchored(self) -> bool:
        """Every worker has to begin at the first byte: what a checkpoint says would not hold for another one."""
        return self.record.manifest.kind != "sample" or self.reads_once

    def blame(self, error: GatewayError) -> GatewayError:
        name_stage(error, len(self.before) + 1, self.stages, self.record.id)
        return error
