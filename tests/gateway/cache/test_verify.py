"""A damaged disk: no wrong byte is ever sent, whatever region of an entry is hit."""

from __future__ import annotations

import asyncio
import os

import pytest
from cache_lab import MIB, STEP, get, lab_source, noise, read, read_piecemeal

from shardgate_gateway.cache.layout import BODY_OFFSET
from shardgate_gateway.cache.source import Freshness
from shardgate_gateway.errors import CacheCorrupt

NEVER = Freshness.immutable()
SIZES = [1000, 5 * MIB + 3]
REGIONS = ["magic", "meta", "first byte", "middle", "last byte", "sums", "trailer", "last of all"]


def place(region: str, size: int, total: int) -> int:
    return {
        "magic": 0,
        "meta": 40,
        "first byte": BODY_OFFSET,
        "middle": BODY_OFFSET + size // 2,
        "last byte": BODY_OFFSET + size - 1,
        "sums": BODY_OFFSET + size,
        "trailer": total - 20,
        "last of all": total - 1,
    }[region]


def flip(path, at: int, *, hide: bool = False) -> None:
    """Change one bit; `hide` keeps the modification time, as a failing disk would."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
    if hide:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("restarted", [True, False])
async def test_a_flipped_bit_anywhere_costs_a_fetch_and_no_wrong_byte(
    new_cache, store, entry_files, size, region, restarted
):
    body = noise(size)
    store.write("a", body)
    cache = await new_cache()
    await cache.prefetch(lab_source(store, "a", NEVER))
    (path,) = entry_files()
    flip(path, place(region, size, path.stat().st_size))
    if restarted:
        cache = await new_cache()
    assert await get(cache, lab_source(store, "a", NEVER)) == body
    assert cache.counters.corrupt == 1
    assert await get(cache, lab_source(store, "a", NEVER)) == body
    assert await get(cache, lab_source(store, "a", NEVER), size // 4, size // 2) == body[size // 4 : size // 2]
    assert cache.counters.corrupt == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.9, 0.9999])
async def test_an_entry_cut_short_is_no_entry(new_cache, store, entry_files, size, share):
    store.write("a", noise(size))
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    (path,) = entry_files()
    os.truncate(path, int(path.stat().st_size * share))
    cache = await new_cache()
    assert await get(cache, lab_source(store, "a", NEVER)) == noise(size)
    assert cache.counters.corrupt == 1


async def test_a_file_of_another_entry_in_this_ones_place_is_not_served(new_cache, store, entry_files):
    store.write("a", noise(1000, 1))
    store.write("b", noise(1000, 2))
    cache = await new_cache()
    await cache.prefetch(lab_source(store, "a", NEVER))
    (a,) = entry_files()
    await cache.prefetch(lab_source(store, "b", NEVER))
    (b,) = set(entry_files()) - {a}
    a.replace(b)
    assert await get(await new_cache(), lab_source(store, "b", NEVER)) == noise(1000, 2)


async def test_damage_in_the_middle_is_replaced_by_the_same_version_from_the_store(new_cache, store, entry_files):
    body = noise(30 * MIB)
    store.write("a", body)
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    fetched = store.fetched
    flip(entry_files()[0], BODY_OFFSET + 20 * MIB)
    cache = await new_cache()
    reading = await cache.open(lab_source(store, "a", NEVER))
    assert reading.state == "hit"
    assert await read(reading) == body
    assert store.fetched - fetched == 30 * MIB - 16 * MIB, "what lies before the damaged step came from the disk"
    assert not entry_files()


async def test_damage_is_an_error_when_the_version_is_gone_from_the_store(new_cache, store, entry_files):
    body = noise(30 * MIB)
    store.write("a", body)
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    flip(entry_files()[0], BODY_OFFSET + 20 * MIB)
    store.write("a", noise(30 * MIB, 2))
    reading = await (await new_cache()).open(lab_source(store, "a", NEVER))
    collected = bytearray()
    with pytest.raises(CacheCorrupt):
        await read_piecemeal(reading, collected, 0, 30 * MIB)
    assert collected == body[: 20 * MIB - 20 * MIB % STEP]


async def test_first_trusts_what_it_checked_and_always_does_not(new_cache, store, entry_files):
    store.write("a", noise(3 * MIB))
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    first, always = await new_cache(), await new_cache(verify="always")
    for cache in (first, always):
        assert await get(cache, lab_source(store, "a", NEVER)) == noise(3 * MIB)
    assert first.lookup(lab_source(store, "a", NEVER)) is not None
    assert always.lookup(lab_source(store, "a", NEVER)) is None
    flip(entry_files()[0], BODY_OFFSET + MIB, hide=True)
    assert await get(first, lab_source(store, "a", NEVER)) != noise(3 * MIB), "the price of checking once"
    assert await get(always, lab_source(store, "a", NEVER)) == noise(3 * MIB)
    assert always.counters.corrupt == 1


async def test_a_range_verifies_its_own_blocks_only(new_cache, store, entry_files):
    body = noise(30 * MIB)
    store.write("a", body)
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    flip(entry_files()[0], BODY_OFFSET + 20 * MIB)
    cache = await new_cache()
    assert await get(cache, lab_source(store, "a", NEVER), 100, 5 * MIB) == body[100 : 5 * MIB]
    assert cache.counters.corrupt == 0
    reading = await cache.open(lab_source(store, "a", NEVER))
    assert reading.file is None
    assert await reading.verified_file() is None
    assert cache.counters.corrupt == 1


async def test_a_verified_file_is_the_whole_body(new_cache, store):
    store.write("a", noise(3 * MIB))
    await (await new_cache()).prefetch(lab_source(store, "a", NEVER))
    cache = await new_cache()
    reading = await cache.open(lab_source(store, "a", NEVER))
    assert reading.file is None
    span = await reading.verified_file()
    assert os.pread(span.fd, span.length, span.offset) == noise(3 * MIB)
    assert reading.file == span
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(span.fd, b"x", 0)


async def test_the_scrubber_finds_and_removes_damage(new_cache, store, entry_files):
    from shardgate_gateway.cache.scrub import Scrubber

    cache = await new_cache(scrub_bytes_per_second=1 << 30)
    for number in range(4):
        store.write(f"{number}", noise(2 * MIB, number))
        await cache.prefetch(lab_source(store, f"{number}", NEVER))
    times = {path: path.stat().st_atime_ns for path in entry_files()}
    assert await Scrubber(cache._node).scrub() == 0
    assert {path: path.stat().st_atime_ns for path in entry_files()} == times
    flip(entry_files()[0], BODY_OFFSET + MIB + 5, hide=True)
    flip(entry_files()[1], 0)
    assert await Scrubber(cache._node).scrub() == 2
    assert len(entry_files()) == 2
    await asyncio.sleep(0)
    for number in range(4):
        assert await get(cache, lab_source(store, f"{number}", NEVER)) == noise(2 * MIB, number)
