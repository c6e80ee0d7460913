"""Whether a function gives the same bytes twice: some samples are run twice, and compared.

What can't be seeded (`os.urandom`, the clock, a counter in a global, threads that race) shows only so. The first
sample that a worker gets is compared, for it can be told before anything is promised; and one sample of every 32nd job,
for what shows later. A function that makes on its first call what it keeps (a model, a generator) does not draw as on
all others. So the first comparison begins anew where it fails, up to two times; and since it is made in every worker
before the first sample that counts, no result is of a first call.

A worker that is told apart by what it did first (weights that the first sample drew) is not noticed. `setup()` is the
place for such things: it draws the same in every worker.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from shardgate_runtime.failures import SampleFailed
from shardgate_runtime.generators import generators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardgate import wire
    from shardgate_runtime.samples import SampleProcessor
    from shardgate_runtime.tar_reader import RawSample
    from shardgate_runtime.tar_writer import Piece

EVERY = 32
"""One job of so many has a sample compared."""
WARM_UPS = 2
"""So often the first comparison of a worker may begin anew."""
FARTHEST = 7
"""It is among the first 2**7 of the job; near the begin more often, for most shards are shorter."""


class Reproducibility:
    """Of one worker's function.

    Attributes:
        holds: No sample gave other bytes the second time.
        compared: Samples that were run twice. differed: Those of them that gave other bytes.
    """

    def __init__(self, every: int = EVERY) -> None:
        self._every = every
        self._jobs = 0
        self._chosen = -1
        self.compared = 0
        self.differed = 0

    @property
    def holds(self) -> bool:
        return not self.differed

    def begin_job(self, job: wire.Job) -> None:
        """Choose the sample of this job that is run twice, if it is this job's turn."""
        self._chosen = -1
        if self._jobs and self._jobs % self._every == 0:
            identity = repr((job.bucket, job.key, job.etag, job.epoch, self._jobs)).encode(errors="surrogatepass")
            value = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little")
            self._chosen = job.sample + (value >> 8) % (1 << value % (FARTHEST + 1))
        self._jobs += 1

    def is_due(self, index: int) -> bool:
        """Whether this sample is to be compared: the worker's first, and the chosen one."""
        return not self.compared or index == self._chosen

    def compare(self, processor: SampleProcessor, raw: RawSample) -> bool:
        """Run a sample twice; True if that gave the same. The sample itself stays as it is.

        A failure is a result like others: the same one twice is the same.
        """
        return self.compare_runs(lambda: processor.run(replace(raw, fields=dict(raw.fields)))[0])

    def compare_runs(self, run: Callable[[], Iterable[Piece]]) -> bool:
        """The same for anything that makes pieces, like a function of bytes."""
        before = _outcome(run)
        may_differ = WARM_UPS if not self.compared else 0
        self.compared += 1
        for run_again in reversed(range(WARM_UPS + 1)):
            is_settled = not generators.are_new()
            now = _outcome(run)
            if before is None or now is None or (before == now and (is_settled or not run_again)):
                return True
            may_differ -= is_settled
            if may_differ < 0:
                break
            before = now
        self.differed += 1
        return False


def _outcome(run: Callable[[], Iterable[Piece]]) -> bytes | None:
    """Digest of what came; None where memory or time ran out, which says nothing of the function."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for piece in run():
            digest.update(piece.tobytes("A") if isinstance(piece, np.ndarray) else piece)
    except SampleFailed as error:
        if error.exhausted or error.passing:
            return None
        digest.update(b"failed")  # its text may hold addresses of objects
    return digest.digest()
