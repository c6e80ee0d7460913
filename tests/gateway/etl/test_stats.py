"""Sums over jobs: nothing that was added is missing from what is read, whoever is writing just then."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from shardgate import wire
from shardgate_gateway import metrics
from shardgate_gateway.etl import stats as stats_module
from shardgate_gateway.etl.stats import StatsBook
from shardgate_gateway.state.database import Database
from shardgate_gateway.state.tables import TransformRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.orm import Session


def a_row(session: Session, name: str = "counted") -> None:
    session.add(
        TransformRow(
            id=name,
            name=name,
            digest="",
            manifest=asdict(wire.Manifest(name)),
            options={},
            package_key="",
            package_bytes=0,
            created_at=datetime.now(UTC),
        )
    )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/db")
    database.prepare()
    await database.write(a_row)
    yield database
    await database.aclose()


async def test_a_reader_waits_for_sums_that_are_just_being_written(database: Database) -> None:
    book = StatsBook(database)
    book.add("counted", wire.Stats(samples_in=40), "completed")
    first, second = await asyncio.gather(book.read("counted"), book.read("counted"))
    assert (first.work.samples_in, second.work.samples_in) == (40, 40)
    await book.aclose()


WRONG = [
    {"function_seconds": math.nan},
    {"fetch_seconds": math.inf},
    {"decode_seconds": -1.0},
    {"samples_out": 1 << 63},
    {"samples_out": (1 << 64) - 1},
    {"samples_out": -1},
    {"bytes_in": "many"},
    {"bytes_out": None},
    {"samples_in": 1.5},
]


def counted() -> float:
    """Samples in the metrics, of both transforms."""
    return sum(metrics.ETL_SAMPLES.labels(name)._value.get() for name in ("counted", "another"))


@pytest.mark.parametrize("wrong", WRONG)
async def test_numbers_that_can_not_be_harm_neither_stats_nor_metrics(
    database: Database, wrong: dict[str, Any]
) -> None:
    await database.write(lambda session: a_row(session, "another"))
    book = StatsBook(database)
    before = counted()
    book.add("counted", wire.Stats(**wrong), "completed")
    book.add("counted", wire.Stats(samples_out=2), "completed")
    book.add("another", wire.Stats(samples_out=3), "completed")
    stats, other = await book.read("counted"), await book.read("another")
    assert (stats.work, stats.completed) == (wire.Stats(samples_out=2), 2)
    assert other.work.samples_out == 3
    assert counted() == before + 5
    await book.aclose()


async def test_sums_stop_at_the_largest_number_and_those_of_others_are_written(database: Database) -> None:
    await database.write(lambda session: a_row(session, "another"))
    most = (1 << 63) - 1
    book = StatsBook(database)
    for _ in range(3):
        book.add("counted", wire.Stats(samples_out=most, function_seconds=float(most)), "completed")
        book.add("counted", wire.Stats(samples_out=most), "completed")
        book.add("another", wire.Stats(samples_out=1), "completed")
        await book.read("another")
    assert (await book.read("counted")).work.samples_out == most
    assert (await book.read("another")).work.samples_out == 3
    json.dumps((await book.read("counted")).counters(), allow_nan=False)
    await book.aclose()


async def test_sums_that_can_not_be_written_do_not_keep_those_of_others_from_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever may be the reason: here the check of values is taken away."""
    await database.write(lambda session: a_row(session, "another"))
    monkeypatch.setattr(stats_module, "_saturated", lambda column, value: column + value)
    monkeypatch.setattr(stats_module, "_is_possible", lambda _work: True)
    book = StatsBook(database)
    book.add("counted", wire.Stats(samples_out=(1 << 64) - 1), "completed")
    book.add("another", wire.Stats(samples_out=3), "completed")
    assert (await book.read("another")).work.samples_out == 3
    assert (await book.read("counted")).work.samples_out == 0
    await book.aclose()
