"""Gateways that read an object from each other: what is waited for has an order, so that nobody waits in a circle."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from cache_lab import MIB, FolderStore, get, lab_source, noise

from shardgate_gateway.cache.control import Control, Record
from shardgate_gateway.cache.layout import BODY_OFFSET
from shardgate_gateway.cache.peer import KeptSource, PeerSource
from shardgate_gateway.cache.source import Freshness
from shardgate_gateway.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from shardgate_gateway.stores.base import ObjectStream

BODY = noise(2 * MIB)
LONG = 20.0
"""Seconds that only a hang takes."""


class Owner(FolderStore):
    """Another gateway: it was asked, and does not answer before it is told to."""

    def __init__(self, store: FolderStore) -> None:
        super().__init__(store.folder)
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def get(self, key: str, **options: Any) -> ObjectStream:
        self.asked.set()
        await self.answers.wait()
        stream: ObjectStream = await super().get(key, **options)
        return stream


@pytest.fixture
async def owner(store: FolderStore) -> Owner:
    store.write("a", BODY)
    return Owner(store)


@pytest.fixture
def copied(store: FolderStore, owner: Owner) -> PeerSource:
    return PeerSource(lab_source(store, "a"), owner, "a")


@pytest.fixture
def kept(store: FolderStore) -> KeptSource:
    return KeptSource(store, "lab", "bucket", "a", Freshness.after(60))


async def got(cache, source):
    try:
        return await get(cache, source)
    except NotFound:
        return None


@pytest.mark.parametrize("same", [True, False], ids=["this process", "another process"])
async def test_an_owner_that_asks_what_is_here_never_waits_for_a_copy_that_waits_for_it(
    new_cache, owner, copied, kept, same
):
    holder = await new_cache()
    asked = holder if same else await new_cache()
    copying = asyncio.ensure_future(get(holder, copied))
    await asyncio.wait_for(owner.asked.wait(), LONG)
    assert asked.holds(kept)
    with pytest.raises(NotFound):
        await asyncio.wait_for(get(asked, kept), LONG)
    owner.answers.set()
    assert await asyncio.wait_for(copying, LONG) == BODY
    async with asyncio.timeout(LONG):
        while (found := await got(asked, kept)) is None:  # noqa: ASYNC110 (another process hears of its end a moment later)
            await asyncio.sleep(0.01)
    assert found == BODY, "a whole copy is nobody's wait"


@pytest.mark.parametrize("same", [True, False], ids=["this process", "another process"])
async def test_an_owner_that_asks_what_is_here_joins_a_fetch_from_the_store(new_cache, store, kept, same):
    store.write("a", BODY)
    begun, go_on = asyncio.Event(), asyncio.Event()

    def hold(_key: str, _at: int) -> object:
        begun.set()
        return go_on.wait()

    store.before_chunk = hold
    filler = await new_cache()
    asked = filler if same else await new_cache()
    filling = asyncio.ensure_future(get(filler, lab_source(store, "a")))
    await asyncio.wait_for(begun.wait(), LONG)
    joined = asyncio.ensure_future(get(asked, kept))
    await asyncio.sleep(0.05)
    go_on.set()
    assert await asyncio.wait_for(asyncio.gather(filling, joined), LONG) == [BODY, BODY]
    assert store.requests == 1


@pytest.mark.parametrize("at", [0, MIB], ids=["nothing", "half"])
async def test_a_fetch_from_the_store_whose_filler_dies_is_never_continued_from_the_owner(
    tmp_path: Path, new_cache, store, owner, copied, at
):
    """The owner may have joined it."""
    folder, cache = tmp_path / "cache" / "fills", await new_cache()
    filler = Control.attach(str(folder / copied.entry_name))
    record = Record(f"{copied.entry_name}.1234", time.monotonic(), watermark=at, meta=await store.head("a"))
    filler.write(record)
    (folder / record.body).write_bytes(bytes(BODY_OFFSET) + BODY[:at])
    follower = asyncio.ensure_future(get(cache, copied))
    await asyncio.sleep(0.05)
    filler.close()
    assert await asyncio.wait_for(follower, LONG) == BODY
    assert not owner.asked.is_set()
