"""Where workers run: the interface that the relay knows.

`local/` runs them as processes of this machine, `kubernetes/` as pods. A runner keeps one runtime per transform (a
parent that loaded the package, and its workers), starts it when it is first needed, and hands out connections, each of
which has one worker to itself for one shard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractContextManager
    from datetime import datetime

    from shardgate import wire
    from shardgate_gateway.cache.reader import FileSpan
    from shardgate_gateway.etl.options import TransformOptions
    from shardgate_gateway.etl.transform_record import TransformRecord

RunnerState = Literal["pending", "starting", "ready", "degraded", "failed", "idle", "stopped"]
"""`pending`: not asked for yet, or nowhere to run yet. `degraded`: it answers, with fewer or older pods than it should.
`idle`: ended because nobody asked for a while; the next GET starts it again. `stopped`: by somebody, until `start`."""


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """A transform's runtime, as people see it. `since` is when the state began; `workers` is 0 unless it is ready."""

    state: RunnerState
    message: str = ""
    hint: str = ""
    workers: int = 0
    since: datetime | None = None


class Chunk(NamedTuple):
    """Bytes of the result, and where another worker would go on after them. Valid until `consumed`."""

    data: memoryview
    checkpoint: wire.Checkpoint


class WorkerConnection(ABC):
    """One worker at work on one job.

    Attributes:
        hello: What the worker said when it took the job.
    """

    hello: wire.Hello

    @abstractmethod
    async def receive(self) -> Chunk | wire.End | wire.Failure:
        """The next chunk (it may be empty: a sign of life with a checkpoint), or the `End`, or the `Failure`.

        Raises:
            WorkerLost: The worker died, hung or broke the protocol. What it sent whole before was received before.
        """

    @abstractmethod
    async def consumed(self, count: int) -> None:
        """Say that the last chunk's `count` bytes are done with, so that the worker may reuse their memory."""

    def keep(self) -> None:  # noqa: B027 (most chunks have memory of their own)
        """Let the last chunk's memory stay as it is while more is received, in place of `consumed`."""

    @abstractmethod
    def close(self) -> None:
        """Give the worker up. The last chunk stays readable, unchanged, for as long as someone holds it. Idempotent."""


class Runner(ABC):
    """Runs transforms."""

    @abstractmethod
    def check(self, manifest: wire.Manifest, options: TransformOptions) -> None:
        """Refuse at registration what could never start, or may not.

        Raises:
            PackageInvalid: The code can't run here, and why.
            Forbidden: The options ask for more than the operator allows.
        """

    @abstractmethod
    async def ensure(self, record: TransformRecord) -> None:
        """Start the transform's runtime if it does not run, and wait until it is ready.

        Raises:
            TransformStartError: It can't start; the message is what the runtime said.
            Conflict: Somebody stopped it.
            Busy: Too many requests wait for it already.
        """

    @abstractmethod
    async def start(self, record: TransformRecord) -> None:
        """`ensure`, also where somebody stopped it. Raises TransformStartError."""

    @abstractmethod
    def workers(self, record: TransformRecord) -> int:
        """How many jobs of a transform that is ready can run at a time; at least 1."""

    @abstractmethod
    def waiting(self, record: TransformRecord) -> AbstractContextManager[None]:
        """Count as one that waits for a worker.

        Raises:
            Busy: Too many wait already, and no worker is held for this one.
        """

    @abstractmethod
    async def connect(self, record: TransformRecord, job: wire.Job, input: FileSpan | None) -> WorkerConnection:  # noqa: A002
        """Hand the job to a worker, waiting for a free one.

        Args:
            record: A transform that `ensure` said is ready.
            job: Its `url` is where to read the shard when `input` can't be used.
            input: The shard as a file of this machine, if it is one.

        Raises:
            WorkerLost: The runtime died meanwhile.
            Busy: Too many requests wait already.
        """

    @abstractmethod
    async def status(self, id: str) -> RunnerStatus:  # noqa: A002
        """The state of a transform's runtime."""

    @abstractmethod
    async def stop(self, record: TransformRecord) -> None:
        """Stop a transform's runtime until `start`. Jobs that somebody still reads are lost."""

    async def supersede(self, id: str, *, superseded: bool) -> None:  # noqa: A002, B027 (most have nothing to end)
        """Its name means a newer version now (or means it again), so that its runtime is to end sooner (or later).

        Raises:
            GatewayError: It could not be noted.
        """

    @abstractmethod
    async def remove(self, id: str) -> None:  # noqa: A002
        """Stop a transform's runtime and delete all that is kept for it, its logs too."""

    @abstractmethod
    async def logs(self, id: str, *, tail: int) -> str:  # noqa: A002
        """The last `tail` lines that the runtime and its workers wrote."""

    @abstractmethod
    def follow(self, id: str, *, tail: int) -> AsyncGenerator[bytes]:  # noqa: A002
        """The last `tail` lines, and what is written from now on, until the generator is closed.

        At least once a second something comes, if it is nothing (b""): a sign of life.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Stop everything that this process started."""
