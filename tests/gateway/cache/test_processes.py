"""Several real processes on one cache folder, and what SIGKILL leaves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random

import pytest
from cache_lab import MIB, get, lab_source, noise, read

from shardgate_gateway.cache.source import Freshness
from shardgate_gateway.cache.space import peek
from shardgate_gateway.errors import UpstreamStalled


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def until(condition, seconds=20.0):
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


@pytest.fixture
def watermark(fill_files):
    """How far the one fill is that is under way."""

    def look():
        records = [peek(str(path)) for path in fill_files() if "." not in path.name]
        return max((record.watermark for record in records if record), default=0)

    return look


async def test_three_processes_fetch_a_cold_object_once(store, new_process):
    body = noise(12 * MIB)
    store.write("a.tar", body)
    processes = await asyncio.gather(*(new_process(delay=0.002) for _ in range(3)))
    answers = await asyncio.gather(*(process.ask("get", key="a.tar") for process in processes for _ in range(20)))
    assert {answer["sha"] for answer in answers} == {sha(body)}
    assert store.fetched == len(body)
    fills = [(await process.ask("counters"))["fills"] for process in processes]
    assert sum(fills) == 1


async def test_three_processes_fetch_each_small_object_once(store, new_process):
    processes = await asyncio.gather(*(new_process(delay=0.01) for _ in range(3)))
    for number in range(20):
        body = noise(5000, number)
        store.write(f"{number}.json", body)
        answers = await asyncio.gather(*(process.ask("get", key=f"{number}.json") for process in processes))
        assert {answer["sha"] for answer in answers} == {sha(body)}
    assert store.requests == 20


@pytest.mark.parametrize("part", [64 * MIB, MIB])
async def test_a_follower_takes_over_when_the_filler_dies(store, new_process, new_cache, watermark, entry_files, part):
    body = noise(12 * MIB)
    store.write("a.tar", body)
    filler = await new_process(delay=0.005, settings={"part_bytes": part, "parallel_from_bytes": 4 * MIB})
    filler.send("get", key="a.tar")
    await until(lambda: watermark() >= 3 * MIB)
    cache = await new_cache()
    reading = await cache.open(lab_source(store, "a.tar"))
    assert reading.state == "filling"
    first = await read(reading, 0, MIB)
    await filler.kill()
    assert first + await read(reading, MIB) == body
    assert cache.counters.takeovers == 1
    assert cache.counters.fills == 0
    await cache.prefetch(lab_source(store, "a.tar"))
    assert len(entry_files()) == 1
    behind_the_watermark = 12 * MIB if part == MIB else MIB  # parallel parts that were not contiguous yet
    assert store.fetched <= len(body) + behind_the_watermark


async def test_a_paused_filler_is_waited_for_and_never_doubled(store, new_process, new_cache, watermark):
    body = noise(6 * MIB)
    store.write("a.tar", body)
    filler = await new_process(delay=0.005)
    filler.send("get", key="a.tar")
    await until(lambda: watermark() >= MIB)
    filler.pause()
    cache = await new_cache()
    reader = asyncio.ensure_future(get(cache, lab_source(store, "a.tar")))
    await asyncio.sleep(0.3)
    assert not reader.done()
    filler.resume()
    assert await reader == body
    assert store.fetched == len(body)


async def test_a_fill_whose_filler_died_is_resumed_by_the_next_reader(store, new_process, new_cache, watermark):
    body = noise(6 * MIB)
    store.write("a.tar", body)
    filler = await new_process(delay=0.01)
    filler.send("get", key="a.tar")
    await until(lambda: watermark() >= 3 * MIB)
    await filler.kill()
    fetched = store.fetched
    cache = await new_cache()
    assert await get(cache, lab_source(store, "a.tar")) == body
    assert store.fetched - fetched <= 3 * MIB


async def test_the_next_reader_gets_the_new_version_when_the_object_changed_after_the_filler_died(
    store, new_process, new_cache, watermark, fill_files
):
    store.write("a.tar", noise(6 * MIB, 1))
    filler = await new_process(delay=0.01)
    filler.send("get", key="a.tar")
    await until(lambda: watermark() >= 3 * MIB)
    await filler.kill()
    store.write("a.tar", noise(5 * MIB, 2))
    cache = await new_cache()
    assert await get(cache, lab_source(store, "a.tar", Freshness.immutable())) == noise(5 * MIB, 2)
    await cache.prefetch(lab_source(store, "a.tar"))
    assert not fill_files()


async def test_a_fill_of_an_earlier_boot_is_not_trusted(
    store, new_process, new_cache, watermark, fill_files, monkeypatch
):
    body = noise(6 * MIB)
    store.write("a.tar", body)
    filler = await new_process(delay=0.01)
    filler.send("get", key="a.tar")
    await until(lambda: watermark() >= 3 * MIB)
    await filler.kill()
    for path in fill_files():
        if "." in path.name:
            path.write_bytes(bytes(path.stat().st_size))  # what a power cut makes of unwritten pages
    monkeypatch.setattr("shardgate_gateway.cache.control.BOOT", "another boot")
    cache = await new_cache()
    assert await get(cache, lab_source(store, "a.tar")) == body
    assert cache.counters.fills == 1


async def test_an_error_reaches_the_followers_of_another_cache_by_its_class_and_words(store, new_cache):
    store.write("a.tar", noise(4 * MIB))
    leader, follower = await new_cache(), await new_cache()

    def stall(key, at):
        if at >= 2 * MIB:
            raise UpstreamStalled("no byte for 30 s", hint="look at the network")

    store.before_chunk = stall
    leading = await leader.open(lab_source(store, "a.tar"))
    following = await follower.open(lab_source(store, "a.tar"))
    for reading in (leading, following):
        with pytest.raises(UpstreamStalled, match="no byte for 30 s") as caught:
            await read(reading)
        assert caught.value.hint == "look at the network"


@pytest.mark.slow  # kills processes at random for several seconds; that is the point
async def test_processes_killed_at_random_never_make_a_reader_see_a_wrong_byte(store, new_process, new_cache):
    chance = random.Random(7)
    bodies = {f"{n}.tar": noise(size, n) for n, size in enumerate([5000, 70_000, 3 * MIB, 9 * MIB + 5])}
    for key, body in bodies.items():
        store.write(key, body)
    options = {
        "delay": 0.001,
        "settings": {"part_bytes": MIB, "parallel_from_bytes": 2 * MIB, "capacity_bytes": 20 * MIB},
    }
    processes = [await new_process(**options) for _ in range(2)]
    survivor = await new_cache(part_bytes=MIB, capacity_bytes=20 * MIB)

    async def reader():
        for _ in range(25):
            key = chance.choice(list(bodies))
            assert await get(survivor, lab_source(store, key)) == bodies[key]
            if chance.random() < 0.5:
                await survivor.invalidate(lab_source(store, key))
            await asyncio.sleep(0.01)

    async def killer():
        for _ in range(10):
            asked = [p.send("get", key=chance.choice(list(bodies))) for p in processes for _ in range(3)]
            await asyncio.sleep(chance.random() * 0.2)
            victim = chance.randrange(len(processes))
            await processes[victim].kill()
            processes[victim] = await new_process(**options)
            for answer in asked:
                with contextlib.suppress(ProcessLookupError):
                    reply = await answer
                    assert reply["sha"] in {sha(body) for body in bodies.values()}, reply

    await asyncio.gather(killer(), *(reader() for _ in range(2)))
    fresh = await new_cache()
    for key, body in bodies.items():
        assert await get(fresh, lab_source(store, key)) == body


async def test_after_invalidate_no_process_opens_the_old_version(store, new_process, new_cache):
    """Entries, memory, open files and fills of every process, over and over."""
    others = [await new_process(), await new_process()]
    cache = await new_cache()
    for number in range(30):
        for key, size in (("small", 3000), ("large", MIB // 2)):
            body = noise(size, number)
            store.write(key, body)
            await cache.invalidate(lab_source(store, key))
            answers = [await other.ask("get", key=key) for other in others]
            assert {answer["sha"] for answer in answers} == {sha(body)}
            assert await get(cache, lab_source(store, key)) == body


async def test_a_fill_that_was_invalidated_is_read_to_its_end_and_never_published(
    store, new_process, new_cache, watermark, entry_files
):
    old, new = noise(6 * MIB, 1), noise(6 * MIB, 2)
    store.write("a.tar", old)
    filler = await new_process(delay=0.01, settings={"part_bytes": 64 * MIB})
    answer = filler.send("get", key="a.tar")
    await until(lambda: watermark() >= MIB)
    cache = await new_cache()
    follower = asyncio.ensure_future(get(cache, lab_source(store, "a.tar")))
    await asyncio.sleep(0.05)
    store.write("a.tar", new)
    await cache.invalidate(lab_source(store, "a.tar"))
    assert await get(cache, lab_source(store, "a.tar")) == new
    await cache.prefetch(lab_source(store, "a.tar"))
    assert (await answer)["sha"] == sha(old)
    assert await follower == old
    await asyncio.sleep(0.1)
    assert (await filler.ask("get", key="a.tar"))["sha"] == sha(new)
    assert len(entry_files()) == 1


async def test_whoever_invalidates_at_any_moment_of_a_fill_is_obeyed(store, new_process, new_cache):
    """PUT and invalidate race with the fills of another process, hundreds of times at random distances."""
    chance = random.Random(3)
    other = await new_process()
    cache = await new_cache()
    for number in range(150):
        size = chance.choice([2000, 80_000])
        store.write("a", noise(size, number))
        answer = other.send("get", key="a")
        await asyncio.sleep(chance.random() * 0.004)
        body = noise(size, -number - 1)
        store.write("a", body)
        await cache.invalidate(lab_source(store, "a"))
        assert await get(cache, lab_source(store, "a")) == body
        await answer
        assert (await other.ask("get", key="a"))["sha"] == sha(body)
