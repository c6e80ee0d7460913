from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from etl import Etl, etl_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def etl(tmp_path: Path) -> AsyncIterator[Etl]:
    async with etl_in(tmp_path) as etl:
        yield etl
