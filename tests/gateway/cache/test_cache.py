"""Freshness, descriptions and the hot path."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cache_lab import MIB, get, lab_source, noise, read

from shardgate_gateway.cache.source import Freshness, entry_name
from shardgate_gateway.errors import LocalStorageError, NotFound, UpstreamUnavailable

ALWAYS, NEVER, SOON = Freshness.always(), Freshness.immutable(), Freshness.after(60)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(params=[3000, 2 * MIB], ids=["small", "large"])
def size(request):
    return request.param


async def test_lookup_knows_nothing_at_first_and_everything_after_one_read(cache, store, size):
    store.write("a", noise(size))
    assert cache.lookup(lab_source(store, "a")) is None
    await cache.prefetch(lab_source(store, "a"))
    reading = cache.lookup(lab_source(store, "a"))
    assert reading is not None
    assert reading.state == "hit"
    assert await read(reading) == noise(size)
    assert (reading.content is None) == (size > 64 << 10)
    assert (reading.file is None) == (size <= 64 << 10)
    assert store.heads == 0


async def test_a_restart_serves_what_was_published_without_fetching(new_cache, store, size):
    store.write("a", noise(size))
    first = await new_cache()
    await first.prefetch(lab_source(store, "a"))
    await first.aclose()
    fetched = store.requests
    second = await new_cache()
    reading = await second.open(lab_source(store, "a"))
    assert reading.state == "hit"
    assert await read(reading) == noise(size)
    assert second.lookup(lab_source(store, "a")) is not None
    assert (store.requests, store.heads) == (fetched, 0), "it was fetched less than 60 s ago"


async def test_immutable_objects_are_never_asked_for_again(new_cache, store, size):
    store.write("a", noise(size))
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    store.remove("a")
    other = await new_cache()
    assert await get(other, lab_source(store, "a", NEVER)) == noise(size)
    assert (await other.head(lab_source(store, "a", NEVER))).size == size
    assert store.heads == 0


async def test_always_asks_at_every_open_and_sees_every_change(cache, store, size):
    for number in range(3):
        store.write("a", noise(size + number, number))
        for _ in range(2):
            assert await get(cache, lab_source(store, "a", ALWAYS)) == noise(size + number, number)
            await cache.prefetch(lab_source(store, "a", SOON))
    assert store.requests == 3
    assert cache.lookup(lab_source(store, "a", ALWAYS)) is None


async def test_after_some_seconds_it_is_asked_for_again(cache, store, size):
    source = lab_source(store, "a", Freshness.after(0.2))
    store.write("a", noise(size, 1))
    await cache.prefetch(source)
    store.write("a", noise(size, 2))
    assert await get(cache, source) == noise(size, 1)
    await asyncio.sleep(0.25)
    assert cache.lookup(source) is None
    assert await get(cache, source) == noise(size, 2)


async def test_a_version_that_is_still_current_is_not_fetched_again(cache, store, size):
    source = lab_source(store, "a", Freshness.after(0.05))
    store.write("a", noise(size, 1))
    await cache.prefetch(source)
    for _ in range(3):
        await asyncio.sleep(0.06)
        assert await get(cache, source) == noise(size, 1)
        assert cache.lookup(source) is not None, "asking made it fresh again"
    assert (store.requests, store.heads) == (1, 3)


async def test_many_opens_of_a_stale_entry_ask_once(cache, store, size):
    source = lab_source(store, "a", Freshness.after(0.05))
    store.write("a", noise(size, 1))
    await cache.prefetch(source)
    await asyncio.sleep(0.06)
    await asyncio.gather(*(get(cache, source) for _ in range(50)))
    assert store.heads == 1


async def test_an_object_deleted_behind_our_back_is_gone_and_its_entry_too(cache, store, size, entry_files):
    store.write("a", noise(size))
    await cache.prefetch(lab_source(store, "a"))
    store.remove("a")
    with pytest.raises(NotFound):
        await cache.open(lab_source(store, "a", ALWAYS))
    assert not entry_files()


async def test_a_stale_entry_is_not_served_when_the_store_cannot_be_asked(cache, store, size, monkeypatch):
    store.write("a", noise(size))
    await cache.prefetch(lab_source(store, "a"))

    async def down(key):
        raise UpstreamUnavailable("down")

    monkeypatch.setattr(store, "head", down)
    with pytest.raises(UpstreamUnavailable):
        await cache.open(lab_source(store, "a", ALWAYS))
    assert await get(cache, lab_source(store, "a", SOON)) == noise(size)


async def test_an_always_fresh_reader_does_not_join_a_fetch_of_an_older_version(cache, store):
    store.write("a", noise(4 * MIB, 1))
    gate = asyncio.Event()
    store.before_chunk = lambda key, at: gate.wait() if at >= MIB else None
    old = await cache.open(lab_source(store, "a", ALWAYS))
    store.write("a", noise(4 * MIB, 2))
    store.before_chunk = lambda key, at: None
    assert await get(cache, lab_source(store, "a", ALWAYS)) == noise(4 * MIB, 2)
    await cache.prefetch(lab_source(store, "a", SOON))
    gate.set()
    assert await read(old) == noise(4 * MIB, 1)
    assert await get(cache, lab_source(store, "a", ALWAYS)) == noise(4 * MIB, 2)


async def test_head_describes_without_fetching_a_body(cache, store, size):
    store.write("a", noise(size))
    meta = await cache.head(lab_source(store, "a"))
    assert meta.size == size
    assert store.requests == 0
    await cache.prefetch(lab_source(store, "a"))
    assert await cache.head(lab_source(store, "a")) == (await cache.open(lab_source(store, "a"))).meta
    assert store.heads == 1


async def test_head_during_a_fill_describes_the_version_that_is_filling(cache, store):
    store.write("a", noise(4 * MIB))
    gate = asyncio.Event()
    store.before_chunk = lambda key, at: gate.wait() if at else None
    reading = await cache.open(lab_source(store, "a"))
    assert await cache.head(lab_source(store, "a")) == reading.meta
    assert store.heads == 0
    gate.set()


async def test_meta_survives_the_disk(new_cache, store, size):
    store.write("a b/ü.tar".replace("/", "_"), noise(size))
    source = lab_source(store, "a b_ü.tar")
    before = await (await new_cache()).prefetch(source)
    assert (await new_cache()) is not None
    assert (await (await new_cache()).open(source)).meta == before


async def test_what_another_cache_evicts_or_replaces_is_seen_at_the_next_lookup(new_cache, store, size):
    one, two = await new_cache(), await new_cache()
    source = lab_source(store, "a", NEVER)
    store.write("a", noise(size, 1))
    await one.prefetch(source)
    assert await two.evict(source)
    assert one.lookup(source) is None
    await one.prefetch(source)
    store.write("a", noise(size, 2))
    await two.invalidate(source)
    await two.prefetch(source)
    assert one.lookup(source) is None
    assert await get(one, source) == noise(size, 2)


async def test_an_open_that_joins_a_load_begun_before_invalidate_sees_the_new_version(cache, store, size, monkeypatch):
    import threading

    from shardgate_gateway.cache import cache as module

    source = lab_source(store, "a", NEVER)
    store.write("a", noise(size, 1))
    await cache.prefetch(source)
    cache._hot.drop(source.entry_name)
    loaded, go = threading.Event(), threading.Event()

    def slow(node, name):
        slot = load(node, name)
        loaded.set()
        go.wait(5)
        return slot

    load = module.load
    monkeypatch.setattr(module, "load", slow)
    early = asyncio.ensure_future(get(cache, source))
    await asyncio.to_thread(loaded.wait, 5)
    store.write("a", noise(size, 2))
    await cache.invalidate(source)
    late = asyncio.ensure_future(get(cache, source))
    await asyncio.sleep(0.01)
    go.set()
    monkeypatch.setattr(module, "load", load)
    assert await late == noise(size, 2)
    assert await early in {noise(size, 1), noise(size, 2)}


async def test_the_memory_tier_stays_within_its_bounds(new_cache, store):
    cache = await new_cache(memory_bytes=100_000)
    for number in range(10):
        store.write(f"{number}", noise(30_000, number))
        await cache.prefetch(lab_source(store, f"{number}"))
    await asyncio.sleep(0.05)
    held = [n for n in range(10) if cache.lookup(lab_source(store, f"{n}")) is not None]
    assert held == [7, 8, 9]
    assert await get(cache, lab_source(store, "0")) == noise(30_000, 0)
    assert store.requests == 10


async def test_open_files_are_bounded_and_closed(new_cache, store, monkeypatch):
    monkeypatch.setattr("shardgate_gateway.cache.hot.MAX_OPEN", 5)
    cache = await new_cache(memory_object_bytes=0)
    before = open_files()
    for number in range(20):
        store.write(f"{number}", noise(30_000, number))
        await cache.prefetch(lab_source(store, f"{number}"))
        await get(cache, lab_source(store, f"{number}"))
    await asyncio.sleep(0.05)
    assert open_files() <= before + 6


async def test_no_file_descriptor_is_left_open_after_a_cache_is_closed(new_cache, store, size):
    store.write("a", noise(size))
    before = open_files()
    cache = await new_cache()
    await get(cache, lab_source(store, "a"))
    reading = await cache.open(lab_source(store, "a"))
    reading.aclose()
    await cache.aclose()
    del reading
    assert open_files() == before


async def test_running_out_of_file_descriptors_is_said_and_survived(cache, store, size):
    import resource

    store.write("a", noise(size))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() - 1, hard))
    try:
        with pytest.raises(LocalStorageError, match="file descriptors"):
            await cache.open(lab_source(store, "a"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await get(cache, lab_source(store, "a")) == noise(size)


async def test_stat_counts_entries_and_bytes_of_the_node(new_cache, store, entry_files):
    one, two = await new_cache(), await new_cache()
    for number in range(3):
        store.write(f"{number}", noise(1000 * number, number))
        await one.prefetch(lab_source(store, f"{number}"))
    stat = await two.stat()
    assert (stat.entries, stat.used_bytes) == (3, sum(path.stat().st_size for path in entry_files()))
    await two.invalidate(lab_source(store, "0"))
    assert (await one.stat()).entries == 2
    assert (await one.stat()).capacity_bytes == 1 << 30


async def test_a_folder_that_cannot_be_written_is_named(new_cache):
    with pytest.raises(LocalStorageError, match="cache folder /proc/no"):
        await new_cache(dir="/proc/no")


def test_entry_names_frame_their_parts():
    assert entry_name("a", "b/c") != entry_name("a/b", "c")
    assert entry_name("a.tar") != entry_name("a.tar.gz")
    assert len(entry_name("x")) == 64
