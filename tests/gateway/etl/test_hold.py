"""A worker that is held for its input is held for a while only, and let go with all others of its pipeline."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from etl import collect
from scripted import RECORD, ScriptedRunner, relay, request

from shardgate import wire
from shardgate_gateway.errors import Busy
from shardgate_gateway.etl import hold as hold_module
from shardgate_gateway.etl.hold import BEGUN_SECONDS, Hold, Tries
from shardgate_gateway.etl.line import PLACE, Place
from shardgate_gateway.etl.pipeline import Stage
from shardgate_gateway.etl.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.etl.transform_request import TransformRequest

REFUSED = wire.Failure("stage_busy", "no worker of s-0 is free")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_module, "STAGE_PAUSE_SECONDS", (0.0, 0.0))


@pytest.fixture
def awaited() -> Iterator[None]:
    """The request is that of a worker of z-0."""
    token = PLACE.set(Place(1.0, 0, 0.01, "z-0"))
    yield
    PLACE.reset(token)


def second_stage() -> TransformRequest:
    before = Stage(replace(RECORD, id="s-0", name="s"))
    given = request()
    return replace(given, recipe=Recipe((before, *given.recipe.stages)), version=given.reading.meta)


def place_of(job: wire.Job) -> Place:
    note, _, about = job.place.partition(" for ")
    assert job.url == f"http://gateway:1{about}"
    return Place.read(note)


async def test_a_reader_that_was_refused_asks_again_with_more_patience() -> None:
    runner = ScriptedRunner(*[[REFUSED] for _ in range(40)], [b"one", "end"])
    streaming, outcomes = relay(runner)
    assert await collect(streaming, second_stage()) == b"one"
    assert outcomes.counts == {"released": 40, "completed": 1}
    places = [place_of(job) for job in runner.jobs]
    assert [place.refusals for place in places] == list(range(41))
    assert len({place.since for place in places}) == 1, "its place is the same in all lines"
    assert {place.held for place in places} == {RECORD.id}
    seconds = [place.seconds or 0 for place in places]
    assert max(seconds[:2]) < min(seconds[8:])
    assert max(seconds) <= streaming._settings.queue_seconds


@pytest.mark.usefixtures("awaited")
async def test_a_refusal_in_the_middle_of_a_pipeline_lets_go_of_the_workers_behind_it() -> None:
    runner = ScriptedRunner([REFUSED], [b"one", "end"])
    streaming, _ = relay(runner)
    with pytest.raises(Busy, match="no worker of s-0"):
        await collect(streaming, second_stage())
    assert place_of(runner.jobs[0]) == Place(1.0, 0, 0.01, RECORD.id), "the least id, and no more time than it has"
    assert runner.connections[0].closed


class Occupied(ScriptedRunner):
    """Nobody ever gets a worker."""

    async def connect(self, record: Any, job: wire.Job, input: Any) -> Any:  # noqa: A002
        await asyncio.Event().wait()


@pytest.mark.usefixtures("awaited")
async def test_whoever_holds_a_worker_is_refused_one_in_time() -> None:
    streaming, _ = relay(Occupied())
    with pytest.raises(Busy, match="no worker of t-0 is free"):
        await collect(streaming, request())


async def test_a_reader_whose_input_is_refused_for_too_long_comes_back_with_its_refusals() -> None:
    runner = ScriptedRunner(*[[REFUSED] for _ in range(100_000)])
    streaming, _ = relay(runner, queue_seconds=0.05)
    with pytest.raises(Busy) as refused:
        await collect(streaming, second_stage())
    assert refused.value.refusals == len(runner.jobs)
    token = PLACE.set(Place(1.0, refused.value.refusals))
    with pytest.raises(Busy) as again:
        await collect(streaming, second_stage())
    PLACE.reset(token)
    assert again.value.refusals == len(runner.jobs) > refused.value.refusals


async def test_a_reader_that_pauses_gives_its_worker_back_however_often_it_was_refused() -> None:
    runner = ScriptedRunner(*[[REFUSED] for _ in range(30)], [b"one", "end"], [b"one", "end"])
    streaming, _ = relay(runner, release_seconds=0.001)
    got = b""
    async for chunk in streaming.stream(second_stage()):
        while not runner.connections[30].closed:
            await hold_module.asyncio.sleep(0.001)
        got += chunk
    assert got == b"one"


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Held(ScriptedRunner):
    """The first job is refused its input, and all later ones get a worker only once `free` is set."""

    def __init__(self, workers: dict[str, int], *scripts: Any) -> None:
        super().__init__([REFUSED], *scripts)
        self.free = asyncio.Event()
        self._workers = workers

    def workers(self, record: TransformRecord) -> int:
        return self._workers[record.id]

    async def connect(self, record: Any, job: wire.Job, input: Any) -> Any:  # noqa: A002
        connection = await super().connect(record, job, input)
        if len(self.jobs) > 1:
            await self.free.wait()
        return connection


@pytest.mark.parametrize(("workers", "tries"), [({"s-0": 1, "t-0": 2}, 1), ({"s-0": 2, "t-0": 3}, 2)])
async def test_new_requests_do_not_take_what_those_of_the_same_stages_were_refused(
    workers: dict[str, int], tries: int
) -> None:
    runner = Held(workers, *[[b"one", "end"] for _ in range(6)])
    streaming, _ = relay(runner)
    refused = asyncio.create_task(collect(streaming, second_stage()))
    await settle()
    new = [asyncio.create_task(collect(streaming, second_stage())) for _ in range(5)]
    await settle()
    assert len(runner.jobs) == 1 + tries, "as many as the rarest stage has workers"
    runner.free.set()
    assert await asyncio.gather(refused, *new) == [b"one"] * 6
    assert not streaming._refused, "from now on nobody waits for a turn"


async def test_those_that_get_through_let_more_try_until_one_is_refused() -> None:
    hold = Hold(120.0, "b", Place(1.0))
    tries = Tries()
    for _ in range(80):
        hold.has_turn, hold.tries = True, tries
        await hold.has_something()
    assert tries.places(2) == 12
    hold.tries = tries
    await hold.refused(Busy("no worker"))
    assert tries.places(2) == 2


@pytest.mark.parametrize("circle", [("a", "b"), ("a", "b", "c"), ("c", "a", "b"), ("b", "a", "d", "c")])
async def test_in_every_circle_somebody_lets_go_long_before_the_others(circle: tuple[str, ...]) -> None:
    """Each holds a worker of one transform, and waits for one of the next."""
    waits = []
    for holder, wanted in zip(circle, (*circle[1:], circle[0]), strict=True):
        place = Hold(120.0, holder, Place(1.0)).input_place()
        waits.append(Hold(120.0, wanted, place).line_seconds or 0)
    assert min(waits) < 2 * hold_module.STAGE_SECONDS
    refused_often = Hold(120.0, "a", Place(1.0, 30)).input_place()
    assert (Hold(120.0, "b", refused_often).line_seconds or 0) > max(waits), "it outlasts the patient"


async def test_the_patient_know_all_workers_that_are_held() -> None:
    """Of stages d, c, b the worker of b is held, too, when c's asks for one of d: it is not patient for b < c < d."""
    last = Hold(120.0, "b", Place(1.0))
    middle = Hold(120.0, "c", last.input_place())
    assert middle.input_place().held == "b"
    assert Hold(120.0, "d", middle.input_place()).line_seconds == middle.place.seconds
    assert (Hold(120.0, "a", middle.input_place()).line_seconds or 0) > (middle.place.seconds or 0)


async def test_one_that_was_read_in_part_waits_longer() -> None:
    hold = Hold(120.0, "b", Place(1.0, 0, 0.25, "a"))
    hold.try_begins(begun=True)
    assert hold.line_seconds == hold.input_place().seconds == BEGUN_SECONDS
