"""What results are called, and which of them are kept."""

from __future__ import annotations

import asyncio
import resource
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from etl import Etl, etl_in, eventually
from shards import shard

from shardgate_gateway.cache import fill
from shardgate_gateway.cache.reader import FileSpan, Reading
from shardgate_gateway.errors import GenerationChanged, PreconditionFailed, SampleError
from shardgate_gateway.etl.delivery import Delivery, Kept
from shardgate_gateway.etl.pipeline import Stage
from shardgate_gateway.etl.recipe import Asker, Recipe
from shardgate_gateway.etl.seen_requests import SLOTS, SeenRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.etl.result_source import ResultSource
    from shardgate_gateway.etl.transform_record import TransformRecord


class Lab:
    """An Etl with results, and a count of the samples that user code saw."""

    def __init__(self, etl: Etl) -> None:
        self.etl = etl
        self.calls = etl.folder / "calls"
        self.calls.touch()
        self.delivery = Delivery(etl.cache, etl.relay, etl.registry, etl.settings, SeenRequests(etl.folder / "asked"))

    async def register(self, policy: str) -> TransformRecord:
        def counted(sample: dict[str, Any], path: str = str(self.calls)) -> dict[str, Any]:
            import os
            import random

            with Path(path).open("a") as file:
                file.write(f"{os.getpid()} ")
            return sample | {"txt": str(random.random())}

        return await self.etl.register(counted, name="counted", cache=policy)

    async def result(self, record: TransformRecord, args: str = "", **query: Any) -> ResultSource:
        return await self.delivery.describe(recipe(record, args, **query), self.etl.source("a.tar"), Asker("test"))

    async def get(self, record: TransformRecord, **query: Any) -> bytes:
        source = self.etl.source("a.tar")
        async with self.delivery.open(recipe(record, **query), source, Asker("test")) as delivered:
            if isinstance(delivered, Kept):
                return await body(delivered.reading)
            return b"".join([bytes(chunk) async for chunk in delivered.chunks])

    def seen(self) -> int:
        """Samples that were computed. Beside them each worker ran its first one twice, to compare."""
        pids = self.calls.read_text().split()
        return len(pids) - 2 * len(set(pids))


def recipe(record: TransformRecord, args: str = "", **query: Any) -> Recipe:
    return Recipe((Stage(record, args),), **query)


async def body(reading: Reading) -> bytes:
    parts = bytearray()
    async with aclosing(reading.parts()) as chunks:
        async for part in chunks:
            if isinstance(part, FileSpan):
                with open(f"/proc/self/fd/{part.fd}", "rb") as file:  # noqa: PTH123, ASYNC230
                    file.seek(part.offset)
                    parts += file.read(part.length)
            else:
                parts += part
    return bytes(parts)


@asynccontextmanager
async def kept_in(folder: Path, **settings: Any) -> AsyncIterator[Lab]:
    async with etl_in(folder, **settings) as etl:
        etl.put("a.tar", shard(10))
        kept = Lab(etl)
        try:
            yield kept
        finally:
            await kept.delivery.aclose()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Lab]:
    async with kept_in(tmp_path) as kept:
        yield kept


async def test_never_computes_for_every_reader(kept: Lab) -> None:
    record = await kept.register("never")
    assert await kept.get(record) == await kept.get(record) == await kept.get(record)
    assert kept.seen() == 30


async def test_always_computes_once(kept: Lab) -> None:
    record = await kept.register("always")
    assert await kept.get(record) == await kept.get(record) == await kept.etl.read(record, "a.tar")
    assert kept.seen() == 20  # once into the cache, and once by the comparison


async def test_auto_keeps_a_small_result_at_the_first_request(kept: Lab) -> None:
    record = await kept.register("auto")
    first = await kept.get(record)
    await eventually(lambda: not kept.delivery.copies._keeping)
    assert await kept.get(record) == first
    assert kept.seen() == 10


async def test_auto_never_takes_another_epoch_for_the_same_result_again(tmp_path: Path) -> None:
    """Or every epoch but the first would be written to the cache, for nobody."""
    async with kept_in(tmp_path, small_result_bytes=100) as kept:
        record = await kept.register("auto")
        for epoch in range(3):
            result = await kept.result(record, epoch=epoch)
            assert not kept.delivery._is_to_be_kept(result), epoch
            assert kept.delivery._is_to_be_kept(result), epoch


async def test_auto_keeps_a_large_result_when_it_is_asked_for_again(tmp_path: Path) -> None:
    async with kept_in(tmp_path, small_result_bytes=1000) as kept:
        record = await kept.register("auto")
        bodies = [await kept.get(record) for _ in range(4)]
        assert bodies == [bodies[0]] * 4
        assert kept.seen() == 20


async def test_what_was_asked_for_is_known_to_other_processes_and_after_a_restart(tmp_path: Path) -> None:
    async with kept_in(tmp_path, small_result_bytes=1000) as first:
        record = await first.register("auto")
        await first.get(record)
    async with kept_in(tmp_path, small_result_bytes=1000) as second:
        assert second.delivery._is_to_be_kept(await second.result(record))


async def test_each_part_of_the_identity_makes_another_result(kept: Lab) -> None:
    one, two = await kept.register("auto"), await kept.etl.register(lambda sample: sample, name="other")
    queries = [{}, {"args": "x"}, {"seed": 1}, {"epoch": 1}]
    results = [await kept.result(record, **query) for record in (one, two) for query in queries]
    kept.etl.put("a.tar", shard(10, seed=1))
    await kept.etl.cache.invalidate(kept.etl.source("a.tar"))
    results += [await kept.result(one)]
    assert len({result.entry_name for result in results}) == len(results)
    assert len({result.meta.etag for result in results}) == len(results)


async def test_the_same_request_has_the_same_etag_before_anything_ran(kept: Lab) -> None:
    record = await kept.register("auto")
    assert (await kept.result(record, seed=1)).meta == (await kept.result(record, seed=1)).meta
    assert kept.seen() == 0


async def test_an_old_result_is_never_served_for_new_code_under_the_same_name(kept: Lab) -> None:
    old = await kept.etl.register(lambda sample: sample | {"txt": "old"}, name="train", cache="always")
    assert b"old" in await kept.get(await kept.etl.registry.resolve("train"))
    await kept.etl.register(lambda sample: sample | {"txt": "new"}, name="train", cache="always")
    new = await kept.get(await kept.etl.registry.resolve("train"))
    assert b"new" in new
    assert b"old" not in new
    assert b"old" in await kept.get(old)


async def test_a_result_of_an_object_that_changed_meanwhile_is_refused(kept: Lab) -> None:
    record = await kept.register("always")
    result = await kept.result(record)
    kept.etl.put("a.tar", shard(11))
    await kept.etl.cache.invalidate(kept.etl.source("a.tar"))
    with pytest.raises(GenerationChanged):
        await result.open()
    with pytest.raises(PreconditionFailed):
        await result.open(if_match="another")


async def test_any_part_of_a_result_can_be_computed_alone(kept: Lab) -> None:
    record = await kept.register("never")
    whole = await kept.get(record)
    result = await kept.result(record)
    for start, end in ((0, None), (1000, None), (0, 1), (70_000, 90_000), (0, len(whole))):
        stream = await result.open(start=start, end=end)
        try:
            assert b"".join([bytes(chunk) async for chunk in stream.chunks]) == whole[start:end]
        finally:
            await stream.aclose()


async def test_a_failed_result_is_not_kept(kept: Lab) -> None:
    def fails(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "000007":
            raise ValueError("seven")
        return sample

    for policy in ("auto", "always"):
        record = await kept.etl.register(fails, name="fails", cache=policy)
        for _ in range(3):
            with pytest.raises(SampleError, match="seven"):
                await kept.get(record)


async def test_copies_of_results_hold_bounded_memory(tmp_path: Path) -> None:
    async with kept_in(tmp_path, small_result_bytes=300_000, workers=1, release_seconds=0.05) as kept:
        record = await kept.register("auto")
        reading = await kept.etl.cache.open(kept.etl.source("a.tar"))
        streams = []
        for seed in range(12):  # readers that pause after their first bytes
            stream = kept.delivery._compute(await kept.result(record, seed=seed), reading)
            await anext(stream)
            streams.append(stream)
        assert kept.delivery.copies._held <= 8 * 300_000
        for stream in streams:
            await stream.aclose()
        assert kept.delivery.copies._held == 0
        reading.aclose()


async def test_a_copy_counts_until_it_is_in_the_cache(kept: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await kept.register("auto")
    arriving = asyncio.Event()
    prefetch = kept.etl.cache.prefetch

    async def slow(source: Any) -> Any:
        await arriving.wait()
        return await prefetch(source)

    monkeypatch.setattr(kept.etl.cache, "prefetch", slow)
    reading = await kept.etl.cache.open(kept.etl.source("a.tar"))
    stream = kept.delivery._compute(await kept.result(record, seed=77), reading)
    body = b"".join([bytes(chunk) async for chunk in stream])
    reading.aclose()
    assert kept.delivery.copies._held == len(body) > 0
    arriving.set()
    await eventually(lambda: kept.delivery.copies._held == 0)


def test_a_full_disk_costs_asked_its_memory_and_nobody_an_error(tmp_path: Path) -> None:
    """Not by a memory map, whose touch would be SIGBUS there."""
    asked = SeenRequests(tmp_path / "asked")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        assert not asked.add("0000000a" * 8)
        assert not asked.add("0000000a" * 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not asked.add("0000000a" * 8)
    assert asked.add("0000000a" * 8)
    asked.close()


def test_asked_needs_no_file(tmp_path: Path) -> None:
    asked = SeenRequests(tmp_path / "no folder" / "asked")
    assert not asked.add("0000000a" * 8)
    assert asked.add("0000000a" * 8)
    asked.close()
    asked.close()


def test_asked_remembers_what_it_can_and_never_more(tmp_path: Path) -> None:
    asked, other = SeenRequests(tmp_path / "asked"), SeenRequests(tmp_path / "asked")
    one, same_slot = "a" * 56 + "00000001", "b" * 56 + "00000001"
    assert not asked.add(one)
    assert other.add(one)
    assert not other.add(same_slot)  # pushes it out
    assert not asked.add(one)
    assert (tmp_path / "asked").stat().st_size == SLOTS * 8
    asked.close()
    other.close()


async def test_a_reader_that_leaves_a_kept_result_does_not_stop_it_at_once(
    kept: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "UNWANTED_SECONDS", 60.0)
    record = await kept.register("always")
    reading = await kept.etl.cache.open(await kept.result(record))
    reading.aclose()
    await eventually(lambda: kept.seen() == 10)
    assert await kept.get(record)
    assert kept.seen() == 10
