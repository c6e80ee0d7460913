"""How long a request waits for a worker before it is told to come again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shardgate_gateway.errors import Busy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def within(seconds: float, transform_id: str) -> AsyncIterator[None]:
    """Have a worker by then.

    Raises:
        Busy: There was none.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        text = f"no worker of {transform_id} was ready and free for {round(seconds, 2):g} s"
        raise Busy(text, hint="ask again, or add workers", retry_after=1.0) from None
