"""Bodies that are made anew each time they are opened: who continues one says what it has already."""

from __future__ import annotations

import asyncio
import os

import pytest
import xxhash
from cache_lab import MIB, FolderStore, get, noise, read

from shardgate_gateway.cache.source import Freshness, StoreSource
from shardgate_gateway.errors import GenerationChanged, UpstreamUnavailable


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


@pytest.mark.parametrize("weak", [False, True])
async def test_a_reader_whose_disk_fills_up_says_what_it_was_given(cache, store, source, file_limit, weak):
    store.weak = weak
    body = noise(6 * MIB)
    store.write("a", body)
    file_limit(3 * MIB)
    assert await get(cache, source) == body
    assert proves(source, body)


@pytest.mark.parametrize("weak", [False, True])
async def test_a_damaged_entry_is_continued_with_what_was_read_of_it(new_cache, store, source, entry_files, weak):
    store.weak = weak
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


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr("shardgate_gateway.cache.fill.UNWANTED_SECONDS", 0.05)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (a test may poll)
            await asyncio.sleep(0.005)


class Gated:
    """A store whose chunks from byte `at` on wait."""

    def __init__(self, store: FolderStore, at: int) -> None:
        self.open = asyncio.Event()
        store.before_chunk = lambda key, position: self.open.wait() if position >= at else None


@pytest.mark.parametrize("sizeless", [False, True])
@pytest.mark.parametrize("at", [0, 2 * MIB], ids=["before its first byte", "in its middle"])
async def test_a_body_that_nobody_wants_any_more_is_not_computed_to_its_end(
    cache, store, source, short_grace, sizeless, at
):
    store.sizeless = sizeless
    body = noise(4 * MIB)
    store.write("a", body)
    gate = Gated(store, at)
    waiting = asyncio.ensure_future(cache.prefetch(source))
    await until(lambda: store.open_streams and cache._fills and (not at or cache._fills[source.entry_name].watermark))
    waiting.cancel()
    await until(lambda: not store.open_streams and not cache._fills)
    used = (await cache.stat()).used_bytes
    assert used <= at + MIB, "and holds no space that it does not use"
    gate.open.set()
    source.prefixes.clear()
    assert await get(cache, source) == body
    if at:
        assert proves(source, body)


async def test_a_body_goes_on_as_long_as_one_of_its_readers_stays_or_comes_back(cache, store, source, short_grace):
    body = noise(4 * MIB)
    store.write("a", body)
    gate = Gated(store, 2 * MIB)
    one, two = await cache.open(source), await cache.open(source)
    one.aclose()
    one.aclose()
    await asyncio.sleep(0.1)
    assert store.open_streams == 1
    two.aclose()
    three = await cache.open(source)
    await asyncio.sleep(0.1)
    assert store.open_streams == 1
    gate.open.set()
    assert await read(three) == body
    assert store.requests == 1


async def test_what_is_only_fetched_is_fetched_to_its_end_for_nobody(cache, store, short_grace, entry_files):
    store.write("a", noise(4 * MIB))
    gate = Gated(store, 2 * MIB)
    plain = StoreSource(store, "lab", "bucket", "a", Freshness.immutable())
    (await cache.open(plain)).aclose()
    await asyncio.sleep(0.1)
    gate.open.set()
    await until(entry_files)


async def test_readers_of_another_process_go_on_where_the_last_one_here_left(
    new_cache, store, source, short_grace, entry_files
):
    body = noise(4 * MIB)
    store.write("a", body)
    gate = Gated(store, 2 * MIB)
    here, there = await new_cache(), await new_cache()
    one = await here.open(source)
    assert await read(one, 0, MIB) == body[:MIB]
    other = await there.open(source)
    one.aclose()
    await until(lambda: there.counters.takeovers)
    gate.open.set()
    assert await read(other) == body
    assert proves(source, body)


class Superseded(Recomputed):
    """Made of a version that was replaced."""

    asked = 0

    async def open(self, *, start=0, end=None, if_match=None, prefix=None):
        self.asked += 1
        raise GenerationChanged("the raw object was overwritten")


async def test_what_is_made_of_a_version_that_is_gone_is_refused_at_once_and_by_that_name(cache, store):
    """Who asked can then ask for the result of the version that is there now."""
    gone = Superseded(store, "a")
    with pytest.raises(GenerationChanged, match="the raw object was overwritten"):
        await cache.open(gone)
    assert gone.asked == 2


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_a_body_that_is_not_to_be_kept_reaches_its_readers_and_no_entry(cache, store, source, entry_files, size):
    body = noise(size)
    store.write("a", body)
    source.may_be_kept = lambda: False
    assert await get(cache, source) == body
    await cache.prefetch(source)
    assert entry_files() == []
    source.may_be_kept = lambda: True
    await cache.prefetch(source)
    assert len(entry_files()) == 1
