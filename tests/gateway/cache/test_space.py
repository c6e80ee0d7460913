"""Bounded disk: eviction, reservations, and readers that go on when the disk can't."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from pathlib import Path

import pytest
from cache_lab import MIB, get, lab_source, noise, read, read_piecemeal

from shardgate_gateway.cache.space import scan
from shardgate_gateway.errors import GenerationChanged, UpstreamUnavailable


def disk_use(entry_files) -> int:
    return sum(path.stat().st_size for path in entry_files())


async def test_the_cache_never_grows_beyond_its_capacity(new_cache, store, entry_files):
    cache = await new_cache(capacity_bytes=10 * MIB)
    for number in range(30):
        store.write(f"{number}", noise(MIB, number))
        assert await get(cache, lab_source(store, f"{number}")) == noise(MIB, number)
        assert disk_use(entry_files) <= 10 * MIB
    assert cache.counters.evictions >= 20
    while (await cache.stat()).filling or (cache._evicting is not None and not cache._evicting.done()):  # noqa: ASYNC110 (a test may poll)
        await asyncio.sleep(0.01)
    counted = cache._node.space.usage()
    assert counted == cache._node.space.recount(), "the count did not drift"


async def test_the_least_recently_used_entries_go_first_and_down_to_the_low_watermark(new_cache, store, tmp_path):
    cache = await new_cache(capacity_bytes=20 * MIB, high_watermark=0.9, low_watermark=0.5)
    for number in range(16):
        store.write(f"{number}", noise(MIB, number))
        await cache.prefetch(lab_source(store, f"{number}"))
    for number in (0, 3):
        cache._hot.drop(lab_source(store, f"{number}").entry_name)
        await get(cache, lab_source(store, f"{number}"))
    for number in (16, 17, 18):
        store.write(f"{number}", noise(MIB, number))
        await cache.prefetch(lab_source(store, f"{number}"))
    for _ in range(200):
        if cache.counters.evictions:
            break
        await asyncio.sleep(0.01)
    left = {Path(found.path).name for found in scan(cache._node.layout)}
    kept = [n for n in range(19) if lab_source(store, f"{n}").entry_name in left]
    assert {0, 3, 17} <= set(kept)
    assert not {1, 2, 4, 5} & set(kept)
    assert 8 <= len(kept) <= 11


async def test_using_an_entry_moves_its_access_time_and_not_its_modification_time(new_cache, store, entry_files):
    store.write("a", noise(MIB))
    await (await new_cache()).prefetch(lab_source(store, "a"))
    (path,) = entry_files()
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    modified = path.stat().st_mtime_ns
    await get(await new_cache(), lab_source(store, "a"))
    assert path.stat().st_atime_ns > 0
    assert path.stat().st_mtime_ns == modified


async def test_an_entry_that_is_being_read_may_be_evicted(new_cache, store, entry_files):
    body = noise(4 * MIB)
    store.write("a", body)
    cache = await new_cache(capacity_bytes=6 * MIB)
    await cache.prefetch(lab_source(store, "a"))
    reading = await cache.open(lab_source(store, "a"))
    first = await read(reading, 0, MIB)
    store.write("b", noise(4 * MIB, 2))
    await cache.prefetch(lab_source(store, "b"))
    assert len(entry_files()) == 1
    assert first + await read(reading, MIB) == body


@pytest.mark.parametrize("sizeless", [False, True])
async def test_an_object_larger_than_the_cache_is_streamed_past_it(new_cache, store, entry_files, fill_files, sizeless):
    store.sizeless = sizeless
    body = noise(9 * MIB)
    store.write("a", body)
    cache = await new_cache(capacity_bytes=4 * MIB)
    store.write("kept", noise(MIB))
    store.sizeless = False
    await cache.prefetch(lab_source(store, "kept"))
    store.sizeless = sizeless
    reading = await cache.open(lab_source(store, "a"))
    assert reading.state == "bypass"
    assert await read(reading) == body
    assert await read(reading, MIB, 2 * MIB) == body[MIB : 2 * MIB]
    reading.aclose()
    assert store.fetched <= 11 * MIB
    assert len(entry_files()) == 1, "nothing was evicted for what can never fit"
    await asyncio.sleep(0.05)
    assert not fill_files()


async def test_a_stream_that_nobody_reads_is_closed_with_its_reading(new_cache, store):
    store.write("a", noise(9 * MIB))
    cache = await new_cache(capacity_bytes=4 * MIB)
    reading = await cache.open(lab_source(store, "a"))
    assert store.open_streams == 1
    reading.aclose()
    await asyncio.sleep(0.01)
    assert store.open_streams == 0


@pytest.mark.parametrize("sizeless", [False, True])
async def test_a_disk_that_fills_up_mid_body_costs_no_reader_a_byte(new_cache, store, file_limit, fill_files, sizeless):
    store.sizeless = sizeless
    body = noise(9 * MIB)
    store.write("a", body)
    cache = await new_cache()
    file_limit(3 * MIB)
    readings = [await cache.open(lab_source(store, "a")) for _ in range(3)]
    assert readings[0].state == "miss"
    assert await asyncio.gather(*(read(reading) for reading in readings)) == [body] * 3
    assert (await cache.stat()).used_bytes == 0
    await asyncio.sleep(0.05)
    assert not fill_files()


async def test_a_full_disk_and_a_changed_object_is_an_error_and_never_a_mixture(new_cache, store, file_limit):
    store.write("a", noise(9 * MIB, 1))
    cache = await new_cache()
    gate = asyncio.Event()
    store.before_chunk = lambda key, at: gate.wait() if at >= 2 * MIB else None
    file_limit(3 * MIB)
    reading = await cache.open(lab_source(store, "a"))
    first = await read(reading, 0, MIB)
    file_limit(resource.RLIM_INFINITY)
    store.write("a", noise(9 * MIB, 2))
    file_limit(3 * MIB)
    gate.set()
    rest = bytearray()
    with pytest.raises(GenerationChanged):
        await read_piecemeal(reading, rest, MIB, 9 * MIB)
    assert noise(9 * MIB, 1).startswith(first + bytes(rest))


async def test_a_small_object_is_served_when_it_cannot_be_written(new_cache, store, file_limit, entry_files):
    store.write("a", noise(10_000))
    cache = await new_cache()
    file_limit(5000)
    assert await get(cache, lab_source(store, "a")) == noise(10_000)
    await cache.prefetch(lab_source(store, "a"))
    assert not entry_files()
    assert (await cache.stat()).used_bytes == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_disk_that_takes_no_new_file_is_bypassed(new_cache, store, monkeypatch, code):
    store.write("a", noise(5 * MIB))
    cache = await new_cache()

    def refuse(path):
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setattr("shardgate_gateway.cache.control.Control.attach", refuse)
    reading = await cache.open(lab_source(store, "a"))
    assert reading.state == "bypass"
    assert await read(reading) == noise(5 * MIB)


async def test_a_key_too_long_for_a_header_is_served_and_not_kept(new_cache, store, entry_files, monkeypatch):
    store.write("a", noise(2 * MIB))
    real = store._open

    def long_etag(key):
        file, size, meta = real(key)
        from dataclasses import replace

        return file, size, replace(meta, etag=meta.etag * 200)

    monkeypatch.setattr(store, "_open", long_etag)
    cache = await new_cache()
    assert await get(cache, lab_source(store, "a")) == noise(2 * MIB)
    await cache.prefetch(lab_source(store, "a"))
    assert not entry_files()


async def test_reservations_of_a_fill_that_failed_are_given_back(new_cache, store):
    store.write("a", noise(5 * MIB))
    cache = await new_cache()

    def fail(key, at):
        if at >= 2 * MIB:
            raise UpstreamUnavailable("gone")

    store.before_chunk = fail
    with pytest.raises(UpstreamUnavailable):
        await cache.prefetch(lab_source(store, "a"))
    assert (await cache.stat()).used_bytes == 0


async def test_a_bypass_is_resumed_after_a_reset(new_cache, store):
    body = noise(9 * MIB)
    store.write("a", body)
    broken = set()

    def reset(key, at):
        if at and at % MIB == 0 and at not in broken:
            broken.add(at)
            raise UpstreamUnavailable("reset")

    store.before_chunk = reset
    cache = await new_cache(capacity_bytes=MIB)
    assert await get(cache, lab_source(store, "a")) == body
    assert len(broken) == 8


async def test_without_a_capacity_the_cache_takes_a_share_of_the_free_disk(new_cache, tmp_path):
    cache = await new_cache(capacity_bytes=0)
    stat = os.statvfs(tmp_path)
    free = stat.f_bavail * stat.f_frsize
    assert 0.5 * free < (await cache.stat()).capacity_bytes < 0.9 * free
