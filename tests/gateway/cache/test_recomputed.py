"""Bodies that are made anew each time they are opened: who continues one says what it has already."""

from __future__ import annotations

import asyncio
import os

import pytest
import xxhash
from cache_lab import MIB, FolderStore, get, noise, read

from shardgate_gateway.cache.source import Freshness, StoreSource
from shardgate_gateway.errors import UpstreamUnavailable


class Recomputed(StoreSource):
    """An object that is opened as if it were computed; `prefixes` are what it was told at each later byte."""

    ranged = False
    recomputed = True

    def __init__(self, store: FolderStore, key: str) -> None:
        super().__init__(store, "lab", "bucket", key, Freshness.immutable())
        self.prefixes: dict[int, bytes | None] = {}

    async def open(self, *, start=0, end=None, if_match=None, prefix=None):
        self.prefixes[start] = prefix
        return await super().open(start=start, end=end, if_match=if_match)


@pytest.fixture
def source(store):
    return Recomputed(store, "a")


def proves(source: Recomputed, body: bytes) -> bool:
    """Whether every opening in the middle came with the digest of what lies before it."""
    later = {start: prefix for start, prefix in source.prefixes.items() if start}
    return bool(later) and all(prefix == xxhash.xxh3_128_digest(body[:start]) for start, prefix in later.items())


async def test_a_fill_that_is_continued_after_a_reset_says_what_it_has(cache, store, source):
    body = noise(5 * MIB)
    store.write("a", body)
    broken = set()

    def reset(key, at):
        if at and at % MIB == 0 and at not in broken:
            broken.add(at)
            raise UpstreamUnavailable("reset")

    store.before_chunk = reset
    assert await get(cache, source) == body
    assert proves(source, body)
    assert len(source.prefixes) == 5


@pytest.mark.parametrize("sizeless", [False, True])
async def test_an_heir_says_what_the_filler_before_has_left(new_cache, store, source, sizeless):
    store.sizeless = sizeless
    body = noise(4 * MIB)
    store.write("a", body)
    first = await new_cache()
    gate = asyncio.Event()
    store.before_chunk = lambda key, at: gate.wait() if at >= 2 * MIB else None
    reading = await first.open(source)
    assert await read(reading, 0, 2 * MIB) == body[: 2 * MIB]
    await first.aclose()
    gate.set()
    second = await new_cache()
    assert await get(second, source) == body
    assert second.counters.takeovers == 1
    assert proves(source, body)


async def test_a_reader_whose_disk_fills_up_says_what_it_was_given(cache, store, source, file_limit):
    body = noise(6 * MIB)
    store.write("a", body)
    file_limit(3 * MIB)
    assert await get(cache, source) == body
    assert proves(source, body)


async def test_a_damaged_entry_is_continued_with_what_was_read_of_it(new_cache, store, source, entry_files):
    body = noise(12 * MIB)
    store.write("a", body)
    await (await new_cache()).prefetch(source)
    source.prefixes.clear()
    (path,) = entry_files()
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"damage")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert await get(await new_cache(), source) == body
    assert proves(source, body)
