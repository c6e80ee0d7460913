"""Uploads share memory in order of arrival, and nothing of it is ever lost."""

from __future__ import annotations

import asyncio

import pytest
from obstore.store import MemoryStore

from shardgate_gateway.errors import Busy
from shardgate_gateway.stores.object_store import PART, ObjectStoreBucket
from shardgate_gateway.stores.upload_memory import UploadMemory

MIB = 1 << 20


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def holding(memory: UploadMemory, size: int, go_on: asyncio.Event, begun: list[int]) -> None:
    async with memory.hold(size):
        begun.append(size)
        await go_on.wait()


async def test_uploads_get_memory_in_the_order_in_which_they_came() -> None:
    memory, go_on, begun = UploadMemory(10, 60), asyncio.Event(), []
    tasks = [asyncio.create_task(holding(memory, size, go_on, begun)) for size in (6, 7, 1, 3)]
    await settled()
    assert begun == [6]  # 1 would fit, and must not overtake
    go_on.set()
    await asyncio.gather(*tasks)
    assert begun == [6, 7, 1, 3]
    async with memory.hold(10):
        pass


async def test_an_upload_larger_than_all_memory_runs_alone() -> None:
    memory, go_on, begun = UploadMemory(10, 60), asyncio.Event(), []
    tasks = [asyncio.create_task(holding(memory, size, go_on, begun)) for size in (1000, 1)]
    await settled()
    assert begun == [1000]
    go_on.set()
    await asyncio.gather(*tasks)


async def test_one_that_waits_too_long_is_busy_and_holds_nobody_up() -> None:
    memory, go_on, begun = UploadMemory(10, 0.05), asyncio.Event(), []
    first = asyncio.create_task(holding(memory, 6, go_on, begun))
    await settled()
    with pytest.raises(Busy, match="uploads hold all") as caught:
        async with memory.hold(5):
            pass
    assert caught.value.retry_after
    async with memory.hold(4):
        pass
    go_on.set()
    await first


async def test_cancelled_uploads_give_back_what_they_had_and_what_they_were_just_given() -> None:
    for turns in range(6):
        memory, go_on, begun = UploadMemory(10, 60), asyncio.Event(), []
        tasks = [asyncio.create_task(holding(memory, size, go_on, begun)) for size in (8, 9, 2, 10)]
        await settled()
        go_on.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(10):
            async with memory.hold(10):
                pass


async def test_one_that_gives_up_its_place_lets_the_next_one_go() -> None:
    memory, go_on, begun = UploadMemory(10, 60), asyncio.Event(), []
    tasks = [asyncio.create_task(holding(memory, size, go_on, begun)) for size in (6, 9, 2)]
    await settled()
    tasks[1].cancel()
    await settled()
    assert begun == [6, 2]
    go_on.set()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("size", [None, 7 * MIB, 100 * MIB])
async def test_stalled_uploads_gather_no_more_than_they_may(size: int | None) -> None:
    """Each would gather a part, or all of a small object, and then wait for its sender for ever."""
    limit, gathered, stalled = 64 * MIB, 0, asyncio.Event()
    client = MemoryStore()
    store = ObjectStoreBucket(client, client, label="mem://b", memory=UploadMemory(limit, 60))

    async def body():
        nonlocal gathered
        for _ in range(6):
            gathered += MIB
            yield bytes(MIB)
        await stalled.wait()

    tasks = [asyncio.create_task(store.put(f"{number}", body(), size=size)) for number in range(50)]
    for _ in range(50):
        await settled()
    assert 0 < gathered <= limit
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.put("after", chunked(20 * MIB), size=None)
    assert (await store.head("after")).size == 20 * MIB


async def chunked(size: int):
    for _ in range(size // MIB):
        yield bytes(MIB)


async def test_a_huge_upload_takes_fewer_parts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    async def put_async(*_: object, **options: object) -> None:
        asked.update(options)
        raise NotImplementedError("that was all")

    monkeypatch.setattr("obstore.put_async", put_async)
    client = MemoryStore()
    store = ObjectStoreBucket(client, client, label="mem://b", memory=UploadMemory(256 * MIB, 1))
    for size, parts in ((PART + 1, 4), (400_000 * MIB, 3), (5_000_000 * MIB, 1)):
        with pytest.raises(Exception, match="that was all"):
            await store.put("k", chunked(20 * MIB), size=size)
        assert asked["max_concurrency"] == parts
