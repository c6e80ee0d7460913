"""What the tests of several rooms of the gateway need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from servers_postgres import Postgres, start_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with start_postgres() as running:
        yield running


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """One that the test may stop and kill."""
    with start_postgres() as running:
        yield running
