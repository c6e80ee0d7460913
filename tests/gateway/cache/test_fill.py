"""One fetch for all, within one process."""

from __future__ import annotations

import asyncio
import time

import pytest
from cache_lab import MIB, UPSTREAM, get, lab_source, noise, read, read_piecemeal

from shardgate_gateway.cache.source import Freshness
from shardgate_gateway.errors import (
    Forbidden,
    GenerationChanged,
    NotFound,
    UpstreamCorrupt,
    UpstreamStalled,
    UpstreamUnavailable,
)

SIZES = [0, 1, 511, 64 << 10, (64 << 10) + 1, MIB, MIB + 1, 3 * MIB, 8 * MIB, 8 * MIB + 1, 21 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["ranges", "weak", "sizeless"])
async def test_a_body_of_any_size_comes_whole_and_is_a_hit_from_then_on(new_cache, store, size, way):
    store.weak, store.sizeless = way == "weak", way == "sizeless"
    body = noise(size, size)
    store.write("a.tar", body)
    cache = await new_cache(parallel_from_bytes=16 * MIB)
    source = lab_source(store, "a.tar")
    reading = await cache.open(source)
    assert reading.state == "miss"
    assert await read(reading) == body
    assert reading.meta.size == size
    await cache.prefetch(source)
    again = await cache.open(source)
    assert again.state == "hit"
    assert again.meta.size == size
    assert await read(again) == body
    assert await read(again, size // 3, size // 2) == body[size // 3 : size // 2]


async def test_every_byte_is_fetched_once_though_the_body_comes_by_parallel_ranges(new_cache, store):
    body = noise(20 * MIB)
    store.write("a.tar", body)
    cache = await new_cache(part_bytes=MIB, parallel_from_bytes=4 * MIB)
    assert await get(cache, lab_source(store, "a.tar")) == body
    assert store.fetched == len(body)
    assert store.requests == 20


async def test_five_hundred_readers_of_one_cold_object_cause_one_fetch(cache, store):
    body = noise(MIB)
    store.write("a.tar", body)
    store.delay = 0.001
    bodies = await asyncio.gather(*(get(cache, lab_source(store, "a.tar")) for _ in range(500)))
    assert all(found == body for found in bodies)
    assert store.fetched == len(body)
    assert cache.counters.fills == 1
    assert (cache.counters.misses, cache.counters.joined) == (1, 499)


async def test_a_follower_gets_the_first_bytes_while_the_rest_is_not_there_yet(cache, store):
    body = noise(9 * MIB)
    store.write("a.tar", body)
    gate = asyncio.Event()
    store.before_chunk = lambda key, at: gate.wait() if at >= MIB else None
    leader = asyncio.ensure_future(get(cache, lab_source(store, "a.tar")))
    reading = await cache.open(lab_source(store, "a.tar"))
    assert reading.meta.size == len(body)
    assert await read(reading, 0, MIB) == body[:MIB]
    assert not leader.done()
    gate.set()
    assert await read(reading, MIB) == body[MIB:]
    assert await leader == body


async def test_the_first_chunk_is_readable_before_the_second_arrives(cache, store):
    store.write("a.tar", noise(MIB))
    gate = asyncio.Event()
    store.chunk = 1000
    store.before_chunk = lambda key, at: gate.wait() if at else None
    reading = await cache.open(lab_source(store, "a.tar"))
    assert await read(reading, 0, 1000) == noise(MIB)[:1000]
    gate.set()


async def test_a_leader_that_leaves_does_not_stop_the_fetch(cache, store, entry_files):
    body = noise(5 * MIB)
    store.write("a.tar", body)
    store.delay = 0.002
    source = lab_source(store, "a.tar")
    leader = asyncio.ensure_future(get(cache, source))
    await asyncio.sleep(0.02)
    follower = asyncio.ensure_future(get(cache, source))
    await asyncio.sleep(0.02)
    leader.cancel()
    assert await follower == body
    assert store.fetched == len(body)


async def test_a_fill_that_everybody_left_is_completed_and_published(cache, store, entry_files):
    store.write("a.tar", noise(5 * MIB))
    store.delay = 0.002
    source = lab_source(store, "a.tar")
    reading = await cache.open(source)
    reading.aclose()
    await cache.prefetch(source)
    assert len(entry_files()) == 1
    assert store.fetched == 5 * MIB


async def test_a_reset_is_resumed_where_it_happened(cache, store):
    body = noise(6 * MIB)
    store.write("a.tar", body)
    broken = set()

    def reset(key, at):
        if at and at % MIB == 0 and at not in broken:
            broken.add(at)
            raise UpstreamUnavailable("connection reset")

    store.before_chunk = reset
    assert await get(cache, lab_source(store, "a.tar")) == body
    assert len(broken) == 5, "more failures than attempts, but never in a row"
    assert store.fetched == len(body)


@pytest.mark.parametrize("error", [UpstreamUnavailable, UpstreamStalled, UpstreamCorrupt])
async def test_a_source_that_fails_for_good_fails_every_reader_at_that_byte(
    cache, store, error, fill_files, entry_files
):
    body = noise(6 * MIB)
    store.write("a.tar", body)

    def fail(key, at):
        if at >= 4 * MIB:
            raise error("gone")

    store.before_chunk = fail
    readings = [await cache.open(lab_source(store, "a.tar")) for _ in range(3)]
    for reading in readings:
        with pytest.raises(error):
            await read(reading)
        assert await read(reading, 0, 4 * MIB) == body[: 4 * MIB]
    await asyncio.sleep(0)
    assert not entry_files()
    store.before_chunk = lambda key, at: None
    assert await get(cache, lab_source(store, "a.tar")) == body
    await cache.prefetch(lab_source(store, "a.tar"))
    assert not fill_files()


async def test_a_small_object_that_fails_is_an_error_before_anything_is_sent(cache, store):
    store.write("a.json", noise(50_000))
    store.chunk = 10_000

    def fail(key, at):
        if at == 40_000:
            raise UpstreamUnavailable("reset")

    store.before_chunk = fail
    with pytest.raises(UpstreamUnavailable):
        await cache.open(lab_source(store, "a.json"))


async def test_throttling_is_waited_out_and_nothing_else_is_tried_again(cache, store):
    store.write("a.json", b"x")
    asked = []

    def throttle(key, start):
        asked.append(start)
        if len(asked) < 3:
            raise UpstreamUnavailable("slow down", retry_after=0.05)

    store.before_get = throttle
    began = time.monotonic()
    assert await get(cache, lab_source(store, "a.json")) == b"x"
    assert time.monotonic() - began >= 0.1

    def refuse(key, start):
        asked.append(start)
        raise Forbidden("no")

    asked.clear()
    store.before_get = refuse
    with pytest.raises(Forbidden):
        await cache.open(lab_source(store, "b.json"))
    assert len(asked) == 1


async def test_an_object_that_changes_mid_fetch_is_never_mixed(new_cache, store):
    old, new = noise(8 * MIB, 1), noise(8 * MIB, 2)
    store.write("a.tar", old)
    cache = await new_cache(part_bytes=MIB, parallel_from_bytes=4 * MIB, parallel_parts=2)

    def overwrite(key, at):
        if at == 3 * MIB:
            store.before_chunk = lambda key, at: None
            store.write("a.tar", new)

    store.before_chunk = overwrite
    collected = bytearray()
    reading = await cache.open(lab_source(store, "a.tar"))
    with pytest.raises(GenerationChanged):
        await read_piecemeal(reading, collected, 0, 8 * MIB)
    assert old.startswith(bytes(collected))
    assert await get(cache, lab_source(store, "a.tar")) == new


async def test_a_weak_version_is_never_resumed_by_range(cache, store, entry_files):
    body = noise(3 * MIB)
    store.weak = True
    store.write("a.tar", body)
    fails = [True]

    def reset(key, at):
        if at == 2 * MIB and fails:
            fails.clear()
            raise UpstreamUnavailable("connection reset")

    store.before_chunk = reset
    reading = await cache.open(lab_source(store, "a.tar"))
    with pytest.raises(UpstreamUnavailable):
        await read(reading)
    assert not entry_files()
    assert await get(cache, lab_source(store, "a.tar")) == body


async def test_a_weak_version_is_fetched_again_while_nothing_of_it_was_given_out(cache, store):
    body = noise(3 * MIB)
    store.weak = True
    store.write("a.tar", body)
    fails = [True]

    def reset(key, at):
        if fails:
            fails.clear()
            raise UpstreamUnavailable("connection reset")

    store.before_chunk = reset
    assert await get(cache, lab_source(store, "a.tar")) == body


async def test_a_server_that_ignores_ranges_is_asked_for_the_whole_object_once(cache, store):
    body = noise(20 * MIB)
    store.write("a.tar", body)
    store.partial = False
    assert await get(cache, lab_source(store, "a.tar")) == body
    assert store.requests == 2, "one that showed it, and one for all"
    assert store.fetched == len(body)


async def test_a_missing_object_is_not_found_and_leaves_nothing_behind(cache, store, fill_files, entry_files):
    with pytest.raises(NotFound):
        await cache.open(lab_source(store, "nothing"))
    store.write("nothing", b"something")
    assert await get(cache, lab_source(store, "nothing")) == b"something"
    await cache.prefetch(lab_source(store, "nothing"))
    assert not fill_files()


async def test_a_reading_goes_on_through_publishing_and_eviction(cache, store, entry_files):
    body = noise(9 * MIB)
    store.write("a.tar", body)
    source = lab_source(store, "a.tar")
    reading = await cache.open(source)
    first = await read(reading, 0, 1000)
    await cache.prefetch(source)
    assert await cache.evict(source)
    assert not entry_files()
    assert first + await read(reading, 1000) == body


async def test_memory_stays_bounded_when_the_disk_is_slower_than_the_network(cache, store, monkeypatch):
    from shardgate_gateway.cache import piece

    held = []

    def slow(fd, buffers, offset):
        time.sleep(0.01)
        held.append(sum(map(len, buffers)))
        return write(fd, buffers, offset)

    write = piece.write_fully
    monkeypatch.setattr(piece, "write_fully", slow)
    body = noise(30 * MIB)
    store.write("a.tar", body)
    assert await get(cache, lab_source(store, "a.tar")) == body
    assert max(held) <= piece.HELD + store.chunk


async def test_closing_the_cache_mid_fill_leaves_a_fill_that_the_next_one_resumes(new_cache, store):
    body = noise(6 * MIB)
    store.write("a.tar", body)
    first = await new_cache()
    gate = asyncio.Event()
    store.before_chunk = lambda key, at: gate.wait() if at >= 4 * MIB else None
    reading = await first.open(lab_source(store, "a.tar"))
    assert await read(reading, 0, 4 * MIB) == body[: 4 * MIB]
    await first.aclose()
    gate.set()
    fetched = store.fetched
    second = await new_cache()
    assert await get(second, lab_source(store, "a.tar", Freshness.immutable())) == body
    assert store.fetched - fetched == 2 * MIB
    assert second.counters.takeovers == 1


async def test_patience_ends_with_the_last_attempt(cache, store):
    store.write("a.json", b"x")
    asked = []

    def fail(key, start):
        asked.append(start)
        raise UpstreamUnavailable("down")

    store.before_get = fail
    with pytest.raises(UpstreamUnavailable):
        await cache.open(lab_source(store, "a.json"))
    assert len(asked) == UPSTREAM.attempts
