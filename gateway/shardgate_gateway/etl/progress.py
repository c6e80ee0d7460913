"""How far the result of one request got, what the next worker has to do, and who is to blame for lost workers.

Pure bookkeeping, no input or output: the relay says what happened, and asks for the next job.

**Where the next worker begins.** At the last whole checkpoint, always: at the beginning of a sample, and of nothing
less. It sends everything from there. What the reader has of it already (the *tail*) comes again, is compared by its
checksum, and dropped. Other bytes, or an end before all of the tail came again, end the stream: bytes of two different
runs are never joined. So a function that gives other bytes the second time, another library in the second worker, or a
sample that is left out this time can break a stream off, and can't corrupt it.

Only frames that end inside a sample are part of a tail, so most bytes are never hashed.

**Streams without checkpoints.** A container has none, a function of the whole object has none, and where a worker's
input is not certain to be the same again (a weak etag, the result of an earlier stage) a checkpoint says nothing about
it. Such a stream is `anchored`: every worker begins at the first byte, and the tail is everything.

**Streams that begin in the middle** (a fill that another process began) bring the checksum of what is there already.

**Who is to blame.** A worker that dies names the sample it was at, through the next worker's HELLO. One death may be
bad luck (somebody's SIGKILL, the machine out of memory), so a sample is poison when it was named twice, or once if the
cause is certain. Poison is part of the next job, whose worker treats it by the transform's error policy.

**When to give up.** After `attempts` lost workers without a new whole sample and without new poison. A worker runs user
code and may make up samples, and deaths, without end; so there is a limit to the losses and the poison of one stream.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import xxhash

from shardgate_gateway.errors import TransformError, WorkerLost

if TYPE_CHECKING:
    from shardgate import wire

CERTAIN = 2
"""Deaths that make a sample poison."""
MAX_LOSSES = 4000
"""Workers that one stream may lose in all, however far it gets in between."""
MAX_POISON = 1000
"""Samples of one stream that may kill workers; each of them is named in every job after it."""


@dataclass(slots=True)
class Progress:
    """The state of one stream.

    Attributes:
        attempts: Workers that may be lost without progress.
        label: Names the stream in errors.
        anchored: Every worker begins at the first byte.
        delivered: Bytes of the result that the reader has.
        prefix: Checksum (xxh3_128) of what it had at the start; b"" where nobody knows it, and nothing is compared.
        sample, input, output: Where the next worker begins: a sample, its first byte in the shard and in the result.
        poison: Samples that must not run again, and why.
        losses: Workers lost since the last progress. all_losses: Since the start.
    """

    attempts: int
    label: str = ""
    anchored: bool = False
    delivered: int = 0
    prefix: bytes = b""
    sample: int = 0
    input: int = 0
    output: int = 0
    poison: dict[int, str] = field(default_factory=dict)
    losses: int = 0
    all_losses: int = 0
    _at: int = 0
    """Bytes of the result that the running worker's frames reached."""
    _tail: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    """Of the running worker's bytes since `output`."""
    _expected: bytes = b""
    """Checksum of the bytes from `output` to `delivered`, which the running worker has to give again."""
    _suspects: Counter[int] = field(default_factory=Counter)
    _unexplained: bool = False

    def __post_init__(self) -> None:
        self._expected = self.prefix

    @property
    def exhausted(self) -> bool:
        return self.losses >= self.attempts or self.all_losses >= MAX_LOSSES

    def resume(self, job: wire.Job) -> wire.Job:
        """The job for the next worker. After a loss it is `careful`, so that another death leaves no doubt."""
        if self._at >= self.delivered > self.output:
            self._expected = self._tail.digest()  # else the last worker did not get as far, and what was known holds
        self._at = self.output
        self._tail = xxhash.xxh3_128()
        return replace(
            job,
            sample=self.sample,
            input=self.input,
            output=self.output,
            poison=dict(self.poison),
            careful=self.losses > 0,
        )

    def fresh(self, data: memoryview, checkpoint: wire.Checkpoint) -> memoryview:
        """The part of a chunk that the reader does not have yet.

        Raises:
            TransformError: What it has is not the same this time.
        """
        old = max(0, min(len(data), self.delivered - self._at))
        if old:
            self._tail.update(data[:old])
            self._at += old
            if self._expected and self._at == self.delivered and self._tail.digest() != self._expected:
                raise self._differs()
        new = data[old:]
        if self.anchored or not checkpoint.whole:
            self._tail.update(new)
        self._at += len(new)
        return new

    def advance(self, count: int, checkpoint: wire.Checkpoint) -> None:
        """The last `count` bytes of a chunk were delivered, and another worker could begin at `checkpoint`."""
        self.delivered += count
        if self.anchored or not checkpoint.whole or self._at < self.delivered:
            return
        if checkpoint.next_sample > self.sample:
            self.losses = 0
        self.sample, self.input, self.output = checkpoint.next_sample, checkpoint.next_input, self._at
        self._tail = xxhash.xxh3_128()

    def end(self, total: int) -> None:
        """The worker said END, and that the result has `total` bytes.

        Raises:
            TransformError: It is over before all that was delivered came again.
            WorkerLost: Not as many bytes came.
        """
        if self._at < self.delivered:
            raise self._differs()
        if total != self._at:
            raise WorkerLost(f"a worker sent {self._at} bytes of a result and said that there are {total}")

    def lost(self) -> None:
        """A worker was lost; the next HELLO may explain it."""
        self.losses += 1
        self.all_losses += 1
        self._unexplained = True

    def explain(self, death: wire.Death | None) -> bool:
        """Take what HELLO said of the last death. True if there is new poison, which the running job does not know.

        Raises:
            TransformError: There is too much of it.
        """
        unexplained, self._unexplained = self._unexplained, False
        if death is None or not unexplained or death.sample is None or death.sample in self.poison:
            return False
        self._suspects[death.sample] += 1
        if not death.deterministic and self._suspects[death.sample] < CERTAIN:
            return False
        if len(self.poison) >= MAX_POISON:
            raise TransformError(
                f"{self.label}: more than {MAX_POISON} samples killed their workers, the last one sample "
                f"{death.sample}: {death.reason}",
                hint="mend what the function does to its process; the transform's log shows it",
            )
        self.poison[death.sample] = death.reason or "the worker died"
        self.losses = 0
        return True

    def _differs(self) -> TransformError:
        where = "the result" if self.anchored else f"sample {self.sample}"
        return TransformError(
            f"{self.label}: {where} came out differently when another worker made it again, and a part of it was sent "
            "already; the transform is not deterministic",
            hint="let its output depend on the object, args, seed and epoch alone; a sample that is left out only "
            "where time or memory is short does not",
        )
