"""Who waits longest is served first, also who went away and came back."""

from __future__ import annotations

import asyncio

import pytest

from shardgate_gateway.etl.line import PLACE, Place, Turn, WaitingLine, in_turn, own_place


async def stand(line: WaitingLine, since: float, served: list[float], leave: asyncio.Event) -> None:
    PLACE.set(Place(since))
    async with line.turn(2):
        served.append(since)
        await leave.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_places_go_to_those_who_came_first_whenever_they_ask() -> None:
    line, served, leave = WaitingLine(), [], asyncio.Event()
    tasks = []
    for since in (8.0, 9.0, 7.0, 3.0, 5.0):
        tasks.append(asyncio.create_task(stand(line, since, served, leave)))
        await settle()
    assert served == [8.0, 9.0], "there are two places"
    leave.set()
    await asyncio.gather(*tasks)
    assert served == [8.0, 9.0, 3.0, 5.0, 7.0]


@pytest.mark.parametrize("called", [False, True], ids=["while it waits", "as it is called"])
async def test_who_leaves_takes_no_place_with_them(called: bool) -> None:
    line, served = WaitingLine(), []
    leaves = [asyncio.Event() for _ in range(5)]
    tasks = [asyncio.create_task(stand(line, float(n), served, leave)) for n, leave in enumerate(leaves)]
    await settle()
    if called:
        leaves[0].set()
        await asyncio.sleep(0)
    tasks[2].cancel()
    for leave in leaves:
        leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {0.0, 1.0, 3.0, 4.0} <= set(served)
    async with asyncio.timeout(5), line.turn(2), line.turn(2):
        pass
    assert line._inside == 0


async def test_who_says_nothing_came_now() -> None:
    assert own_place().since <= own_place().since
    PLACE.set(Place(5.0))
    assert own_place() == Place(5.0)


@pytest.mark.parametrize("place", [Place(5.5), Place(5.5, 3), Place(5.5, 3, 0.25, "a-1"), Place(5.5, 0, 30.0, "a-1")])
def test_a_note_says_what_the_place_is(place: Place) -> None:
    assert Place.read(place.written()) == place


def plain(since: float, number: int) -> Turn:
    return Turn(since, number, is_awaited=False, wants_more=False)


def awaited(since: float, number: int) -> Turn:
    return Turn(since, number, is_awaited=True, wants_more=False)


def wanting(since: float, number: int) -> Turn:
    return Turn(since, number, is_awaited=False, wants_more=True)


def test_who_would_hold_one_more_worker_does_not_pass_who_is_awaited() -> None:
    held, old, back = awaited(9.0, 1), wanting(1.0, 0), wanting(2.0, 2)
    assert next(in_turn([old, held, back])) is old, "it was there before"
    assert next(in_turn([held, back])) is held
    assert next(in_turn([held, back, awaited(8.0, 0)])) == awaited(8.0, 0), "of those, the first that came"


def test_who_is_awaited_does_not_pass_who_wants_nothing_more_or_was_there_before() -> None:
    turns = [plain(1.0, 3), wanting(2.0, 0), awaited(3.0, 1), plain(4.0, 2)]
    assert list(in_turn(turns)) == turns


def test_an_awaited_one_is_served_however_often_older_ones_come_back() -> None:
    waiting = {wanting(float(n), n) for n in range(5)} | {awaited(9.0, 5)}
    for number in range(6, 100):
        served = next(in_turn(waiting))
        waiting.remove(served)
        if served.is_awaited:
            break
        waiting.add(wanting(served.since, number))
    assert number == 7, "the first that came back let it pass"
