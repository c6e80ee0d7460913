"""Who waits longest is served first, also who went away and came back."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.etl.line import PLACE, Place, Turn, Turns, WaitingLine, own_place

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.mark.parametrize("moment", ["while it waits", "before it is called", "as it is called"])
async def test_who_leaves_takes_no_place_with_them(moment: str) -> None:
    line, served = WaitingLine(), []
    leaves = [asyncio.Event() for _ in range(5)]
    tasks = [asyncio.create_task(stand(line, float(n), served, leave)) for n, leave in enumerate(leaves)]
    await settle()
    if moment == "as it is called":
        leaves[0].set()
        await asyncio.sleep(0)
    tasks[2].cancel()
    if moment == "while it waits":
        await settle()
    leaves[0].set()
    await settle()
    assert set(served) == {0.0, 1.0, 3.0}, "two are in there"
    for leave in leaves:
        leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert set(served) == {0.0, 1.0, 3.0, 4.0}
    async with asyncio.timeout(5), line.turn(2), line.turn(2):
        pass
    assert line._inside == 0


async def test_new_places_go_to_those_who_wait_for_longest() -> None:
    line, served, leave = WaitingLine(), [], asyncio.Event()

    async def one(number: int, places: int) -> None:
        PLACE.set(Place(float(number)))
        async with line.turn(places):
            served.append(number)
            await leave.wait()

    tasks = []
    for number, places in enumerate((1, 1, 1, 2, 1)):
        tasks.append(asyncio.create_task(one(number, places)))
        await settle()
    assert served == [0, 1], "the last one says that there is one place, the one before it said two"
    leave.set()
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2, 3, 4]


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


def turns(*waiting: Turn) -> Turns:
    made = Turns()
    for turn in waiting:
        made.add(turn)
    return made


def served(waiting: Turns) -> Iterator[Turn]:
    while (turn := waiting.next()) is not None:
        waiting.discard(turn)
        yield turn


def test_who_would_hold_one_more_worker_does_not_pass_who_is_awaited() -> None:
    held, old, back = awaited(9.0, 1), wanting(1.0, 0), wanting(2.0, 2)
    assert turns(old, held, back).next() is old, "it was there before"
    assert turns(held, back).next() is held
    assert turns(held, back, awaited(8.0, 0)).next() == awaited(8.0, 0), "of those, the first that came"


def test_who_is_awaited_does_not_pass_who_wants_nothing_more_or_was_there_before() -> None:
    waiting = [plain(1.0, 3), wanting(2.0, 0), awaited(3.0, 1), plain(4.0, 2)]
    assert list(served(turns(*waiting))) == waiting


def test_an_awaited_one_is_served_however_often_older_ones_come_back() -> None:
    waiting = turns(*(wanting(float(n), n) for n in range(5)), awaited(9.0, 5))
    for number, turn in zip(range(6, 100), served(waiting), strict=False):
        if turn.is_awaited:
            break
        waiting.add(wanting(turn.since, number))
    assert number == 7, "the first that came back let it pass"


def test_who_left_is_not_served() -> None:
    waiting = turns(wanting(1.0, 5), awaited(3.0, 1), awaited(4.0, 2))
    waiting.discard(awaited(3.0, 1))
    waiting.discard(awaited(3.0, 1))
    assert list(served(waiting)) == [awaited(4.0, 2), wanting(1.0, 5)]


class Compared(Turn):
    """Counts how often turns are compared."""

    __slots__ = ()
    comparisons = 0

    def __lt__(self, other: tuple[object, ...]) -> bool:
        Compared.comparisons += 1
        return super().__lt__(other)


@given(st.lists(st.tuples(st.floats(0, 9), st.booleans(), st.booleans()), max_size=30))
def test_turns_are_those_that_a_look_at_all_would_find(kinds: list[tuple[float, bool, bool]]) -> None:
    waiting = [Turn(since, number, *kind) for number, (since, *kind) in enumerate(kinds)]
    kept = turns(*waiting)
    for found in served(kept):
        expected = min(waiting)
        if expected.wants_more:
            passing = [turn for turn in waiting if turn.is_awaited and turn.number < expected.number]
            expected = min(passing, key=lambda turn: turn.number, default=expected)
        assert found == expected
        waiting.remove(found)
    assert not waiting


def test_thousands_that_wait_are_not_all_looked_at_for_each_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compared, "comparisons", 0)
    count = 4000
    order = random.Random(1).sample(range(count), count)
    waiting = turns(*(Compared(float(since), n, n % 2 > 0, n % 3 > 0) for n, since in enumerate(order)))
    assert len(list(served(waiting))) == count
    assert Compared.comparisons < 30 * count
