"""The relay's decisions, with workers that follow a script: what real ones do only by bad luck."""

# ruff: noqa: A002, ASYNC110 - the interface's names; scripts set no events

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from etl import collect
from scripted import Scripted, ScriptedRunner, relay, request

from shardgate import wire
from shardgate_gateway.errors import Busy, SampleError, TransformError, UpstreamUnavailable, WorkerLost
from shardgate_gateway.etl import pause as pause_module
from shardgate_gateway.etl import relay as relay_module
from shardgate_gateway.etl.runner import Chunk, WorkerConnection

if TYPE_CHECKING:
    from shardgate_gateway.etl.relay import Relay


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "BACKOFF_SECONDS", 0.0)


LOST = WorkerLost("gone")


async def test_workers_that_are_lost_without_progress_end_the_stream_after_the_last_attempt() -> None:
    runner = ScriptedRunner([b"one", LOST], [LOST], LOST, [LOST], ["end"])
    stream, outcomes = relay(runner, attempts=4)
    with pytest.raises(
        WorkerLost, match="4 workers of t-0 were lost one after the other at sample 1; the last one: gone"
    ):
        await collect(stream, request())
    assert outcomes.counts == {"lost": 3, "failed": 1}


async def test_progress_makes_a_stream_outlive_any_number_of_losses() -> None:
    runner = ScriptedRunner(*[[b"%d " % n, LOST] for n in range(50)], ["end"])
    stream, outcomes = relay(runner, attempts=2)
    assert await collect(stream, request()) == b"".join(b"%d " % n for n in range(50))
    assert outcomes.counts == {"lost": 50, "completed": 1}
    assert [job.sample for job in runner.jobs] == list(range(51))
    assert len({job.request_id for job in runner.jobs}) == 1


async def test_two_streams_never_share_a_job_id() -> None:
    runner = ScriptedRunner(["end"], ["end"])
    stream, _ = relay(runner)
    await collect(stream, request())
    await collect(stream, request())
    first, second = runner.jobs
    assert first.request_id != second.request_id


async def test_new_poison_is_told_to_the_next_worker_at_once() -> None:
    death = wire.Death(1, "k", "killed by SIGSEGV", deterministic=True)
    runner = ScriptedRunner([b"one", LOST], [b"never read"], [b"two", "end"], deaths={1: death})
    stream, outcomes = relay(runner)
    assert await collect(stream, request()) == b"onetwo"
    assert [job.poison for job in runner.jobs] == [{}, {}, {1: "killed by SIGSEGV"}]
    assert all(connection.closed for connection in runner.connections)
    assert outcomes.counts == {"lost": 1, "released": 1, "completed": 1}


async def test_the_worker_is_told_where_to_read_and_what_to_show() -> None:
    runner = ScriptedRunner(["end"])
    stream, _ = relay(runner)
    await collect(stream, request())
    (job,) = runner.jobs
    assert job.url == "http://gateway:1/v1/objects/shards/a%20b.tar?provider=gcp"
    assert (job.token, job.bucket, job.key, job.etag) == ("read:gcp://shards/a b.tar", "gcp://shards", "a b.tar", "e")
    assert job.match == '"e"'


async def test_a_shard_that_could_not_be_read_is_tried_again_and_then_told() -> None:
    unavailable = wire.Failure("input_unavailable", "connection reset")
    stream, _ = relay(ScriptedRunner([unavailable], [b"all", "end"]))
    assert await collect(stream, request()) == b"all"
    stream, _ = relay(ScriptedRunner(*[[unavailable] for _ in range(4)]), attempts=4)
    with pytest.raises(UpstreamUnavailable, match=r"gcp://shards/a b\.tar: connection reset"):
        await collect(stream, request())


async def test_a_failed_sample_is_not_tried_again() -> None:
    runner = ScriptedRunner([wire.Failure("sample_failed", "no", sample=3, key="k", stats=wire.Stats(samples_in=4))])
    stream, outcomes = relay(runner)
    with pytest.raises(SampleError) as raised:
        await collect(stream, request())
    assert (raised.value.sample, raised.value.key) == (3, "k")
    assert outcomes.counts == {"failed": 1}
    assert outcomes.work.samples_in == 4


async def test_a_full_queue_refuses_new_streams_but_never_one_that_has_begun() -> None:
    busy = Busy("full", retry_after=0.001)
    stream, _ = relay(ScriptedRunner(busy))
    with pytest.raises(Busy):
        await collect(stream, request())
    stream, _ = relay(ScriptedRunner([b"one", LOST], busy, busy, busy, busy, busy, [b"two", "end"]), attempts=2)
    assert await collect(stream, request()) == b"onetwo"


async def test_a_reader_that_leaves_closes_the_connection_and_its_work_is_counted() -> None:
    runner = ScriptedRunner([b"one", b"two", b"three", "end"])
    stream, outcomes = relay(runner)
    async with aclosing(stream.stream(request())) as chunks:
        await anext(chunks)
        await anext(chunks)
    assert runner.connections[0].closed
    assert outcomes.counts == {"abandoned": 1}
    assert (outcomes.work.samples_in, outcomes.work.bytes_out) == (1, 3)


async def test_a_reader_that_is_cancelled_while_it_waits_closes_the_connection() -> None:
    class Silent(Scripted):
        async def receive(self) -> Any:
            await asyncio.sleep(1000)

    class SilentRunner(ScriptedRunner):
        async def connect(self, record: Any, job: wire.Job, input: Any) -> WorkerConnection:
            self.connections.append(Silent(job, []))
            return self.connections[-1]

    runner = SilentRunner()
    stream, _ = relay(runner)
    reader = asyncio.create_task(collect(stream, request()))
    while not runner.connections:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert runner.connections[0].closed


async def test_a_reader_that_pauses_gives_its_worker_back_and_goes_on_behind_its_chunk() -> None:
    runner = ScriptedRunner([b"one", b"not to be read"], [b"two", "end"])
    stream, outcomes = relay(runner, release_seconds=0.001)
    got = b""
    async with aclosing(stream.stream(request())) as chunks:
        async for chunk in chunks:
            while not got and not runner.connections[0].closed:
                await asyncio.sleep(0.001)
            got += chunk
    assert got == b"onetwo"
    assert runner.jobs[1].sample == 1
    assert not runner.jobs[1].careful
    assert outcomes.counts == {"released": 1, "completed": 1}


@dataclass
class InParts(Scripted):
    """Steps are (bytes, whole): parts of samples."""

    kept: int = 0

    async def receive(self) -> Any:
        step: Any = self.steps.pop(0)
        if not isinstance(step, tuple):
            return wire.End(self.sent) if step == "end" else step
        part, whole = step
        self.sent += len(part)
        sample = self.job.sample + whole
        self.job = wire.Job("", "", "", "", "", sample=sample)
        return Chunk(memoryview(part), wire.Checkpoint(sample, sample * 512, whole=whole))

    def keep(self) -> None:
        self.kept += 1


class RunnerInParts(ScriptedRunner):
    async def connect(self, record: Any, job: wire.Job, input: Any) -> WorkerConnection:
        self.jobs.append(job)
        self.connections.append(InParts(job, self.scripts.pop(0)))  # type: ignore[arg-type]
        return self.connections[-1]


async def read_with_one_pause(stream: Relay, runner: ScriptedRunner) -> bytes:
    """Read, and pause at the first chunk until its worker was given up."""
    got = b""
    async with aclosing(stream.stream(request())) as chunks:
        async for chunk in chunks:
            while not got and not runner.connections[0].closed:
                await asyncio.sleep(0.001)
            got += chunk
    return got


async def test_a_reader_that_pauses_inside_a_sample_gets_its_end_from_the_same_worker() -> None:
    first: Any = [(b"on", False), (b"e ", False), (b"end.", True), (b"never", True)]
    runner = RunnerInParts(first, [(b"two", True), "end"])  # type: ignore[list-item]
    stream, outcomes = relay(runner, release_seconds=0.001)
    assert await read_with_one_pause(stream, runner) == b"one end.two"
    assert [(job.sample, job.output) for job in runner.jobs] == [(0, 0), (1, 8)]
    assert runner.connections[0].kept == 1  # type: ignore[attr-defined]
    assert outcomes.counts == {"released": 1, "completed": 1}


async def test_a_shard_that_ends_while_its_reader_pauses_is_complete() -> None:
    runner = RunnerInParts([(b"on", False), (b"e", True)], ["end"])  # type: ignore[list-item]
    stream, _ = relay(runner, release_seconds=0.001)
    assert await read_with_one_pause(stream, runner) == b"one"


async def test_an_end_of_a_sample_beyond_the_budget_is_made_again_and_compared() -> None:
    for again, expected in ((b"one long end", b"one long end"), (b"One long end", None)):
        first: Any = [(b"one", False), (b" long", False), (b" end", True)]
        runner = RunnerInParts(first, [(again, True), "end"])  # type: ignore[list-item]
        stream, _ = relay(runner, release_seconds=0.001)
        stream._budget = pause_module.Budget(4)
        if expected is not None:
            assert await read_with_one_pause(stream, runner) == expected
        else:
            with pytest.raises(TransformError, match="sample 0 came out differently"):
                await read_with_one_pause(stream, runner)
        assert stream._budget._left == 4


async def test_a_worker_that_is_lost_while_its_reader_pauses_is_replaced_at_the_sample() -> None:
    first: Any = [(b"on", False), WorkerLost("gone")]
    runner = RunnerInParts(first, [(b"one", True), "end"])  # type: ignore[list-item]

    async def receive(self: InParts) -> Any:
        if self.steps and isinstance(self.steps[0], Exception):
            raise self.steps.pop(0)  # type: ignore[misc]
        return await InParts.receive(self)

    stream, outcomes = relay(runner, release_seconds=0.001)
    InLost = type("InLost", (InParts,), {"receive": receive})  # noqa: N806

    async def connect(record: Any, job: wire.Job, input: Any) -> WorkerConnection:
        runner.jobs.append(job)
        runner.connections.append(InLost(job, runner.scripts.pop(0)))
        return runner.connections[-1]

    runner.connect = connect  # type: ignore[method-assign]
    assert await read_with_one_pause(stream, runner) == b"one"
    assert outcomes.counts == {"lost": 1, "completed": 1}


async def test_an_end_that_does_not_fit_what_came_is_not_a_success() -> None:
    class Lying(Scripted):
        async def receive(self) -> Any:
            received = await super().receive()
            return wire.End(received.total + 1) if isinstance(received, wire.End) else received

    class LyingRunner(ScriptedRunner):
        async def connect(self, record: Any, job: wire.Job, input: Any) -> WorkerConnection:
            self.connections.append(Lying(job, self.scripts.pop(0)))  # type: ignore[arg-type]
            return self.connections[-1]

    stream, _ = relay(LyingRunner([b"one", "end"], ["end"], ["end"]), attempts=3)
    with pytest.raises(WorkerLost, match="said that there are"):
        await collect(stream, request())


@pytest.mark.parametrize("code", ["stage_busy", "stage_failed"])
async def test_a_worker_that_has_no_stage_before_it_blames_none(code: str) -> None:
    runner = ScriptedRunner(*[[wire.Failure(code, "it was not me")] for _ in range(4)])
    streaming, _ = relay(runner, attempts=4)
    with pytest.raises(WorkerLost, match="it was not me"):
        await collect(streaming, request())
    assert not runner.scripts


async def test_a_pause_without_memory_for_a_second_ring_cuts_the_sample_and_frees_the_worker() -> None:
    class Unmappable(InParts):
        def keep(self) -> None:
            raise WorkerLost("the ring can't be mapped")

    runner = RunnerInParts([(b"on", False), (b"e", True)], [(b"one", True), "end"])  # type: ignore[list-item]
    scripts = [Unmappable, InParts]

    async def connect(record: Any, job: wire.Job, input: Any) -> WorkerConnection:
        runner.connections.append(scripts.pop(0)(job, runner.scripts.pop(0)))  # type: ignore[arg-type]
        return runner.connections[-1]

    runner.connect = connect  # type: ignore[method-assign]
    stream, outcomes = relay(runner, release_seconds=0.001)
    assert await read_with_one_pause(stream, runner) == b"one"
    assert outcomes.counts == {"released": 1, "completed": 1}
