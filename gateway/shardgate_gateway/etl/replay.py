"""Results that no worker can continue in the middle: each attempt begins at the first byte, and must begin alike.

A container has no checkpoints, and a worker whose input is the result of one can't trust that the rest of a second
input belongs to the first. So when such a worker is lost the next one makes everything again. What was delivered
already is dropped, after its checksum was compared: a program that gives other bytes the second time is found out
before a single byte of the second run follows those of the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import xxhash

from shardgate_gateway.errors import TransformError
from shardgate_gateway.etl.progress import Progress

if TYPE_CHECKING:
    from shardgate import wire


@dataclass(slots=True)
class Replay(Progress):
    """The account of one such stream. Its `skip` counts all bytes that are done with.

    Attributes:
        label: Names the stream in errors.
    """

    label: str = ""
    _known: int = 0
    """Bytes that an earlier attempt gave out, and `_digest` their checksum; none where nobody wanted them."""
    _digest: bytes = b""
    _at: int = 0
    _hash: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    def __post_init__(self) -> None:
        self._known = self.skip

    def resume(self, job: wire.Job) -> wire.Job:
        if self._at > self._known:
            self._known, self._digest = self._at, self._hash.digest()
        self._at = 0
        self._hash = xxhash.xxh3_128()
        return replace(job, poison=dict(self.poison), careful=self.losses > 0)

    def fresh(self, data: memoryview) -> memoryview:
        """The part of a chunk that was not delivered before.

        Raises:
            TransformError: What was delivered before is not the same this time.
        """
        old = min(len(data), max(0, self._known - self._at))
        self._hash.update(data[:old])
        self._at += old
        if old and self._at == self._known and self._digest and self._hash.digest() != self._digest:
            raise self._differs()
        self._hash.update(data[old:])
        self._at += len(data) - old
        return data[old:]

    def advance(self, count: int, checkpoint: wire.Checkpoint) -> None:  # noqa: ARG002 (its bytes are all there is)
        self.skip += count

    def end(self) -> None:
        """The worker said END.

        Raises:
            TransformError: Before it gave what was delivered.
        """
        if self._at < self._known and self._digest:
            raise self._differs()

    def _differs(self) -> TransformError:
        return TransformError(
            f"{self.label}: a worker was lost, and the next one gave other bytes than those that were sent already; "
            "its container is not deterministic",
            hint="let its output depend on the object, args, seed and epoch alone",
        )
