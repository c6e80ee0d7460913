from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from shardgate_gateway.etl.kubernetes.demand import FRESH_SECONDS, Demand, DemandBoard, from_json, to_json

if TYPE_CHECKING:
    from pathlib import Path


def test_the_demands_of_all_processes_are_summed(tmp_path: Path) -> None:
    first, second = DemandBoard(tmp_path / "demand", "0"), DemandBoard(tmp_path / "demand", "1")
    first.publish({"a": Demand(2, 0.0), "b": Demand(0, 9.0)})
    second.publish({"a": Demand(3, 0.0), "c": Demand(0, 5.0)})
    assert first.read() == {"a": Demand(5, 0.0), "b": Demand(0, 9.0), "c": Demand(0, 5.0)}


def test_nobody_idles_for_longer_than_the_last_who_asked(tmp_path: Path) -> None:
    first, second = DemandBoard(tmp_path, "0"), DemandBoard(tmp_path, "1")
    first.publish({"a": Demand(0, 100.0)})
    second.publish({"a": Demand(0, 3.0)})
    assert first.read()["a"].idle_seconds == 3.0


def test_a_process_that_died_counts_no_more(tmp_path: Path) -> None:
    board = DemandBoard(tmp_path, "0")
    board.publish({"a": Demand(2, 0.0)})
    then = time.time() - 2 * FRESH_SECONDS
    os.utime(tmp_path / "0.json", (then, then))
    assert board.read() == {}


def test_a_file_that_is_no_demand_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("[")
    (tmp_path / "2.json").write_text('{"a": {}}')
    board = DemandBoard(tmp_path, "0")
    board.publish({"a": Demand(2, 0.0)})
    assert board.read() == {"a": Demand(2, 0.0)}


async def test_a_process_that_ends_takes_its_demand_with_it(tmp_path: Path) -> None:
    board = DemandBoard(tmp_path, "0")
    publishing = asyncio.create_task(board.keep_publishing(lambda: {"a": Demand(1, 0.0)}))
    async with asyncio.timeout(30):
        while not board.read():  # noqa: ASYNC110 (files tell nobody that they changed)
            await asyncio.sleep(0.01)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert board.read() == {}


def test_demands_travel_as_json() -> None:
    demands = {"a": Demand(2, 0.0), "b": Demand(0, 12.5)}
    assert from_json(to_json(demands)) == demands
