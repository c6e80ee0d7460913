"""How far the result of one request got, what the next worker has to do, and who is to blame for lost workers.

Pure bookkeeping, no input or output: the relay tells what happened, and asks for the next job.

**Where to go on.** A checkpoint with `whole` says that everything before `sample` was delivered. One without says that
the last `skip` bytes belong to `sample`, which has to be run again with those bytes dropped. A stream that itself
starts in the middle (a cache fill that is resumed) knows only how many bytes to drop; then bytes are counted from the
start until the first whole checkpoint.

**Who is to blame.** A worker that dies names the sample it was at, through the next worker's HELLO. One death may be
bad luck (somebody's SIGKILL, the machine out of memory), so a sample is poison when it was named twice, or once if the
cause is certain. Poison is part of the next job, whose worker treats it by the transform's error policy.

**When to give up.** After `attempts` lost workers without a new whole sample and without new poison. There are finitely
many samples, so every stream ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardgate import wire

CERTAIN = 2
"""Deaths that make a sample poison."""


@dataclass(slots=True)
class Progress:
    """The state of one stream.

    Attributes:
        attempts: Workers that may be lost without progress.
        sample, input, output: Index of the sample to go on with, its first byte in the shard and in the result.
        skip: Bytes behind `output` that were delivered already.
        poison: Samples that must not run again, and why.
        losses: Workers lost since the last progress.
    """

    attempts: int
    sample: int = 0
    input: int = 0
    output: int = 0
    skip: int = 0
    poison: dict[int, str] = field(default_factory=dict)
    losses: int = 0
    _suspects: Counter[int] = field(default_factory=Counter)
    _unexplained: bool = False

    @property
    def delivered(self) -> int:
        """Bytes of the result that are done with."""
        return self.output + self.skip

    @property
    def exhausted(self) -> bool:
        return self.losses >= self.attempts

    def resume(self, job: wire.Job) -> wire.Job:
        """The job for the next worker. After a loss it is `careful`, so that another death leaves no doubt."""
        return replace(
            job,
            sample=self.sample,
            input=self.input,
            output=self.output,
            skip=self.skip,
            poison=dict(self.poison),
            careful=self.losses > 0,
        )

    def fresh(self, data: memoryview) -> memoryview:
        """What of a chunk was not delivered before: all of it, since a worker begins where the last one ended."""
        return data

    def end(self) -> None:
        """The worker said END."""

    def advance(self, count: int, checkpoint: wire.Checkpoint) -> None:
        """`count` more bytes were delivered, and the worker would go on at `checkpoint`."""
        if count == 0 and self.skip:
            return  # the worker still drops bytes; how many are left of them it does not say
        if checkpoint.whole:
            if checkpoint.next_sample > self.sample:
                self.losses = 0
            self.output += self.skip + count
            self.sample, self.input, self.skip = checkpoint.next_sample, checkpoint.next_input, 0
            return
        if self.skip == 0:
            self.sample, self.input = checkpoint.next_sample, checkpoint.next_input
        self.skip += count

    def lost(self) -> None:
        """A worker was lost; the next HELLO may explain it."""
        self.losses += 1
        self._unexplained = True

    def explain(self, death: dict[str, object] | None) -> bool:
        """Hear what HELLO said of the last death. True if there is new poison, which the running job does not know."""
        unexplained, self._unexplained = self._unexplained, False
        if death is None or not unexplained:
            return False
        sample, reason = death.get("sample"), str(death.get("reason") or "the worker died")
        if not isinstance(sample, int) or sample in self.poison:
            return False
        self._suspects[sample] += 1
        if not death.get("deterministic") and self._suspects[sample] < CERTAIN:
            return False
        self.poison[sample] = reason
        self.losses = 0
        return True
