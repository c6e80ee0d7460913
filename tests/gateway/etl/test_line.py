"""Who waits longest is served first, also who went away and came back."""

from __future__ import annotations

import asyncio

import pytest

from shardgate_gateway.etl.line import SINCE, WaitingLine, waiting_since


async def stand(line: WaitingLine, since: float, served: list[float], leave: asyncio.Event) -> None:
    SINCE.set(since)
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
    assert waiting_since() <= waiting_since()
    SINCE.set(5.0)
    assert waiting_since() == 5.0
