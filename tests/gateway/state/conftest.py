"""Both databases: a file, and a real PostgreSQL server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardgate_gateway.state.database import Database, database_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres").create())
    return database_url("", tmp_path)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    database.prepare()
    yield database
    await database.aclose()
