"""Generations: what changes one, and that workers are asked once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from shardgate import wire
from shardgate_gateway.errors import Busy
from shardgate_gateway.etl import generation
from shardgate_gateway.etl.generation import Identifier
from shardgate_gateway.etl.generation_name import difference, generation_of, options_digest
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.transform_record import TransformRecord

OPTIONS = TransformOptions(env={"A": "1"})
RECORD = TransformRecord("t-0", "t", "", wire.Manifest("t"), OPTIONS, 0, datetime.now(UTC))


def test_everything_that_can_change_a_byte_changes_the_generation() -> None:
    environment = {"python": "3.11.7", "numpy": "2.0"}
    seen = {
        generation_of(environment, "r"),
        generation_of(environment | {"numpy": "2.1"}, "r"),
        generation_of(environment | {"options": options_digest(OPTIONS)}, "r"),
        generation_of(environment | {"options": options_digest(TransformOptions(env={"A": "2"}))}, "r"),
        generation_of(environment | {"options": options_digest(TransformOptions(secrets=("key",)))}, "r"),
        generation_of(environment | {"options": options_digest(TransformOptions(image="other"))}, "r"),
        generation_of(environment, "registered again"),
    }
    assert len(seen) == 7
    assert options_digest(TransformOptions(workers=3)) == options_digest(TransformOptions(cache="never"))
    assert generation_of({}, "r") == ""


def test_a_difference_names_both_sides() -> None:
    assert difference({"numpy": "2.0", "a": "1"}, {"numpy": "2.1", "b": "1"}) == (
        "a 1 became none, b none became 1, numpy 2.0 became 2.1"
    )


class Asked:
    """Stands for runner and registry."""

    def __init__(self, options: str) -> None:
        self.options = options
        self.connections = 0

    async def ensure(self, record: Any) -> None: ...

    async def connect(self, record: Any, job: wire.Job, file: Any) -> Any:
        assert job.probe
        self.connections += 1
        await asyncio.sleep(0)
        return self

    @property
    def hello(self) -> wire.Hello:
        return wire.Hello(environment={"python": "3", "options": self.options})

    def close(self) -> None: ...

    async def learn(self, record: TransformRecord, *, environment: dict[str, str], unstable: bool) -> TransformRecord:
        return replace(record, environment=environment, is_unstable=unstable)


class Silent(Asked):
    """A runtime that takes the job and never says anything."""

    async def connect(self, record: Any, job: wire.Job, file: Any) -> Any:
        await asyncio.Event().wait()


def identifier_of(asked: Asked, seconds: float = 30.0) -> Identifier:
    return Identifier(cast("Any", asked), cast("Any", asked), seconds)


async def test_readers_do_not_wait_for_ever_for_a_worker_that_never_says_what_it_is_like() -> None:
    identifier = identifier_of(Silent(options_digest(OPTIONS)), 0.05)
    async with asyncio.timeout(20):
        found = await asyncio.gather(*(identifier.identified(RECORD) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in found] == [Busy] * 3
    await identifier.aclose()


async def test_many_readers_of_a_new_transform_ask_one_worker() -> None:
    asked = Asked(options_digest(OPTIONS))
    identifier = identifier_of(asked)
    records = await asyncio.gather(*(identifier.identified(RECORD) for _ in range(20)))
    assert asked.connections == 1
    assert {record.generation for record in records} == {records[0].generation}
    assert await identifier.identified(records[0]) == records[0]
    assert asked.connections == 1


async def test_workers_that_run_with_older_options_are_asked_now_and_then(monkeypatch: Any) -> None:
    asked = Asked("older")
    identifier = identifier_of(asked)
    record = await identifier.identified(RECORD)
    for _ in range(50):
        assert await identifier.identified(record) == record
    assert asked.connections == 1
    monkeypatch.setattr(generation, "ASK_AGAIN_SECONDS", -1.0)
    asked.options = options_digest(OPTIONS)
    assert (await identifier.identified(record)).environment["options"] == asked.options
    assert asked.connections == 2
