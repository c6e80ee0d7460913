"""A look at every bucket when the gateway starts: a location that is wrong shall not wait for its first reader.

It goes on beside the start, which never waits for it, takes a bounded time, and changes nothing: what is wrong is a
warning in the log, because a store may be back, and a folder be there, before anybody asks for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shardgate_gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate_gateway.settings import BucketSettings
    from shardgate_gateway.stores.base import Store

log = logging.getLogger(__name__)

CHECK_SECONDS = 20.0
"""For one bucket; the store may answer later, and all is well then."""
PARALLEL = 8
UNLISTED = ("http", "https", "mem", "memory")
"""Schemes of stores that can't be listed, and of one that is always there."""


async def check_buckets(buckets: Iterable[tuple[str, BucketSettings, Store]]) -> None:
    """Warn of every bucket that can't be listed."""
    turns = asyncio.Semaphore(PARALLEL)

    async def check(name: str, settings: BucketSettings, store: Store) -> None:
        async with turns:
            problem = await _problem(settings, store)
        if problem:
            log.warning("bucket %s: %s", name, problem, extra={"fields": {"bucket": name}})

    await asyncio.gather(*(check(*bucket) for bucket in buckets))


async def _problem(settings: BucketSettings, store: Store) -> str:
    """What is wrong with the bucket; empty where nothing is."""
    scheme = urlsplit(settings.where).scheme if "://" in settings.where else "file"
    if scheme in UNLISTED:
        return ""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            if scheme == "file":
                return await asyncio.to_thread(_problem_of_folder, settings)
            await store.list(limit=1)
    except GatewayError as error:
        return f"it can't be listed: {error.message}" + (f" ({error.hint})" if error.hint else "")
    except TimeoutError:
        return f"the store did not answer within {CHECK_SECONDS:g} seconds"
    except Exception as error:  # noqa: BLE001 (a look that fails says so, and ends nothing)
        return f"it can't be looked at: {type(error).__name__}"
    return ""


def _problem_of_folder(settings: BucketSettings) -> str:
    folder = Path(settings.where.removeprefix("file://")).expanduser().absolute()
    if not os.path.lexists(folder):
        return f"its folder {folder} is not there" + ("" if settings.read_only else "; the first PUT will make it")
    if not folder.is_dir():
        return f"its location {folder} is no folder"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"its folder {folder} can't be read by the user that the gateway runs as"
    return ""
