"""One worker's share of a stream, and what its last word means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from shardgate import wire
from shardgate_gateway.errors import Busy, SampleError, TransformError, UpstreamUnavailable, WorkerLost

if TYPE_CHECKING:
    from shardgate_gateway.etl.progress import Progress
    from shardgate_gateway.etl.stats import Outcome


class StageBusy(Busy):
    """An earlier stage has no worker free, and this one is not to be held meanwhile."""


@dataclass(slots=True)
class Attempt:
    """One worker's share of the work.

    Attributes:
        patience: Seconds that it waits for a reader that pauses.
        has_stage_before: Its input is the result of an earlier stage; without one, none can have failed or be busy.
        outcome: What it is if nothing else happens: the reader leaves.
        gaps: A sample was left out for a cause that may pass.
    """

    first_sample: int
    first_byte: int
    patience: float
    has_stage_before: bool = False
    outcome: Outcome = "abandoned"
    reported: wire.Stats | None = None
    gaps: bool = False

    @property
    def running(self) -> bool:
        return self.outcome == "abandoned"

    def end(self, outcome: Outcome, stats: wire.Stats) -> None:
        self.outcome, self.reported = outcome, stats

    def fail(self, failure: wire.Failure, label: str) -> NoReturn:
        """Account for a FAIL and raise what it means, naming the shard."""
        self.end("failed", failure.stats)
        if failure.code == "stage_failed" and self.has_stage_before:
            raise TransformError(failure.message, hint=failure.hint)
        if failure.code == "stage_busy" and self.has_stage_before:
            raise StageBusy(failure.message, hint=failure.hint)
        message = failure.message if label in failure.message else f"{label}: {failure.message}"
        if failure.code == "sample_failed":
            raise SampleError(
                message, hint=failure.hint, sample=failure.sample, key=failure.key, traceback=failure.traceback
            )
        if failure.code == "input_invalid":
            raise TransformError(message, hint=failure.hint)
        error = UpstreamUnavailable if failure.code == "input_unavailable" else WorkerLost
        raise error(message, hint=failure.hint)

    def stats(self, progress: Progress) -> wire.Stats:
        """What the worker reported, or what is known of one that could not."""
        done = wire.Stats(
            samples_in=max(0, progress.sample - self.first_sample),
            samples_gaps=int(self.gaps),
            bytes_out=progress.delivered - self.first_byte,
        )
        return self.reported or done
