"""Sums over jobs: nothing that was added is missing from what is read, whoever is writing just then."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from shardgate import wire
from shardgate_gateway.etl.stats import StatsBook
from shardgate_gateway.state.database import Database
from shardgate_gateway.state.tables import TransformRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.orm import Session


def a_row(session: Session) -> None:
    session.add(
        TransformRow(
            id="counted",
            name="counted",
            digest="",
            manifest=asdict(wire.Manifest("counted")),
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
