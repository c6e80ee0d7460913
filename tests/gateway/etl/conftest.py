from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from etl import Etl, etl_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WITHOUT_TORCH = Path(__file__).parents[2] / "support" / "without_torch"


@pytest.fixture(autouse=True)
def quick_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes start in a second instead of five without torch, which webdataset imports if it is there."""
    monkeypatch.setenv("PYTHONPATH", str(WITHOUT_TORCH))


@pytest.fixture
async def etl(tmp_path: Path) -> AsyncIterator[Etl]:
    async with etl_in(tmp_path) as etl:
        yield etl
