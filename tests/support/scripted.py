"""Workers that follow a script, and a relay that has no others."""

# ruff: noqa: A002 - the interface's names

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from shardgate import wire
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.pipeline import Stage
from shardgate_gateway.etl.recipe import Asker, Recipe
from shardgate_gateway.etl.relay import Relay
from shardgate_gateway.etl.runner import Chunk, Runner, WorkerConnection
from shardgate_gateway.etl.transform_record import TransformRecord
from shardgate_gateway.etl.transform_request import TransformRequest
from shardgate_gateway.settings import EtlSettings
from shardgate_gateway.stores.base import ObjectMeta

if TYPE_CHECKING:
    from shardgate_gateway.etl.registry import Registry

Step = bytes | wire.Failure | Exception | str
"""A sample's bytes, FAIL, a loss, or "end"."""


@dataclass
class Scripted(WorkerConnection):
    job: wire.Job
    steps: list[Step]
    hello: wire.Hello = field(default_factory=wire.Hello)
    closed: bool = False
    sent: int = 0

    def __post_init__(self) -> None:
        self.sent = self.job.output

    async def receive(self) -> Any:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, bytes):
            sample = self.job.sample + 1
            self.sent += len(step)
            self.job = wire.Job("", "", "", "", "", sample=sample)
            return Chunk(memoryview(step), wire.Checkpoint(sample, sample * 512, whole=True))
        return wire.End(self.sent, wire.Stats(samples_in=7)) if step == "end" else step

    async def consumed(self, count: int) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


class ScriptedRunner(Runner):
    """Each connect takes the next script; a script that is an exception is raised."""

    def __init__(self, *scripts: list[Step] | Exception, deaths: dict[int, wire.Death] | None = None) -> None:
        self.scripts = list(scripts)
        self.deaths = deaths or {}
        self.connections: list[Scripted] = []
        self.jobs: list[wire.Job] = []

    async def connect(self, record: Any, job: wire.Job, input: Any) -> WorkerConnection:
        script = self.scripts.pop(0)
        self.jobs.append(job)
        if isinstance(script, Exception):
            raise script
        hello = wire.Hello(death=self.deaths.get(len(self.jobs) - 1))
        self.connections.append(Scripted(job, script, hello))
        return self.connections[-1]

    def workers(self, record: TransformRecord) -> int:
        return 1

    def waiting(self, record: TransformRecord) -> AbstractContextManager[None]:
        return nullcontext()

    def check(self, manifest: wire.Manifest, options: TransformOptions) -> None: ...
    async def ensure(self, record: TransformRecord) -> None: ...
    async def start(self, record: TransformRecord) -> None: ...
    async def status(self, id: str) -> Any: ...
    async def stop(self, record: TransformRecord) -> None: ...
    async def remove(self, id: str) -> None: ...
    async def logs(self, id: str, *, tail: int) -> str:
        return ""

    async def follow(self, id: str, *, tail: int) -> Any:
        yield b""

    async def aclose(self) -> None: ...


class Outcomes:
    """Stands for the registry."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.work = wire.Stats()
        self.learned: list[dict[str, Any]] = []

    async def add_stats(self, _id: str, stats: wire.Stats, outcome: str) -> None:
        self.counts[outcome] += 1
        self.work.add(stats)

    async def learn(self, record: TransformRecord, **findings: Any) -> TransformRecord:
        self.learned.append({name: value for name, value in findings.items() if value})
        return record


RECORD = TransformRecord("t-0", "t", "", wire.Manifest("t"), TransformOptions(), 0, datetime.now(UTC))


class Reading:
    """Stands for a reading of the raw object, which is in no local file."""

    meta = ObjectMeta("a b.tar", 3, "e")
    content = None
    file = None

    async def verified_file(self) -> None:
        return None


def request() -> TransformRequest:
    source = SimpleNamespace(label="gcp://shards/a b.tar")
    recipe = Recipe((Stage(RECORD),))
    return TransformRequest(recipe=recipe, source=cast("Any", source), reading=cast("Any", Reading()), asker=Asker("r"))


def relay(runner: Runner, **settings: Any) -> tuple[Relay, Outcomes]:
    outcomes = Outcomes()
    registry = cast("Registry", outcomes)
    made = Relay(
        *(runner, registry, EtlSettings(**settings)),
        endpoint="http://gateway:1",
        sign="+".join,
        seal=lambda text, about: f"{text} for {about}",
    )
    return made, outcomes
