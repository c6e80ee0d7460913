"""What a process holds in memory and open for the next reader, and how it counts that."""

from __future__ import annotations

import threading
import time

import pytest
from cache_lab import MIB, get, lab_source, noise

from shardgate_gateway.cache.hot import HotSet, OpenEntry
from shardgate_gateway.cache.layout import Identity
from shardgate_gateway.cache.members import Member, NoIndex
from shardgate_gateway.stores.base import ObjectMeta


def slot(name: str, content: bytes = b"", etag: str = "e") -> OpenEntry:
    meta = ObjectMeta(name, len(content), etag)
    return OpenEntry(f"/entries/{name}", Identity(1, 2, 3), meta, 0.0, content=content, entry=None)


@pytest.mark.parametrize("content", [b"", b"x" * 20, b"x" * 5000])
def test_many_tiny_objects_stay_within_the_memory_of_few_large_ones(content):
    """A slot takes about a KiB beside its body, and an empty body is no free one."""
    hot = HotSet(1_000_000)
    for number in range(5000):
        hot.put(f"{number}", slot(f"{number}", content))
    assert sum(1024 + len(content) for n in range(5000) if hot.get(f"{n}")) <= 1_000_000


def test_a_long_etag_counts():
    hot = HotSet(100_000)
    for number in range(100):
        hot.put(f"{number}", slot(f"{number}", etag="e" * 8000))
    assert sum(hot.get(f"{n}") is not None for n in range(100)) <= 12


def test_indexes_count_and_push_out_what_was_not_used_for_longest():
    hot = HotSet(1_000_000)
    for number in range(20):
        last = hot.put(f"{number}", slot(f"{number}"))
        hot.keep_index(last, tuple(Member(f"{n:06d}.jpg", n, 1) for n in range(500)))
    assert 1 <= sum(hot.get(f"{n}") is not None for n in range(20)) <= 10
    assert hot.get("19") is last
    assert last.members is not None
    for n in range(20):
        hot.drop(f"{n}")
    assert hot._held == 0


def test_an_index_larger_than_the_memory_is_not_kept_and_pushes_nothing_out():
    hot = HotSet(100_000)
    kept, large = hot.put("kept", slot("kept")), hot.put("large", slot("large"))
    hot.keep_index(large, tuple(Member("n" * 1000, n, 1) for n in range(1000)))
    assert large.members is None
    assert hot.get("kept") is kept
    hot.keep_index(kept, NoIndex("it is none"))
    assert kept.members == NoIndex("it is none")


def test_an_index_of_a_slot_that_was_dropped_meanwhile_is_not_counted():
    hot = HotSet(100_000)
    old = hot.put("a", slot("a"))
    hot.put("a", slot("a"))
    hot.keep_index(old, (Member("m", 0, 1),))
    hot.drop("a")
    assert hot._held == 0


@pytest.mark.parametrize("size", [3000, MIB], ids=["small", "large"])
async def test_recording_a_use_never_touches_the_entry_that_came_in_its_place(cache, store, size, monkeypatch):
    """Another process publishes between the look and the touch."""
    store.write("a", noise(size, 1))
    source = lab_source(store, "a")
    await cache.prefetch(source)
    old = cache._hot.get(source.entry_name)
    store.write("a", noise(size, 2))
    await cache.invalidate(source)
    await cache.prefetch(source)
    new = cache._hot.get(source.entry_name)
    assert new.identity != old.identity
    old.touched = 0.0
    old.touch(time.monotonic() + 1000)
    assert not old.current()
    assert new.current()


async def test_a_body_that_is_slow_to_index_holds_up_no_other_object(new_cache, store, monkeypatch):
    """Readers get it, and others are loaded, fetched and published meanwhile as far as threads go."""
    from shardgate_gateway.cache import partial_entry

    go, begun = threading.Event(), []

    def slow(fd, size):
        if size > 3 * MIB:
            begun.append(size)
            go.wait(20)
        return index_of(fd, size)

    index_of = partial_entry.index_of
    monkeypatch.setattr(partial_entry, "index_of", slow)
    cache = await new_cache()
    try:
        for number in range(20):
            store.write(f"slow{number}", noise(4 * MIB, number))
            assert await get(cache, lab_source(store, f"slow{number}")) == noise(4 * MIB, number)
        assert begun
        for number in range(5):
            store.write(f"{number}", noise(3000, number))
            await cache.prefetch(lab_source(store, f"{number}"))
            assert (await cache.open(lab_source(store, f"{number}"))).state == "hit"
    finally:
        go.set()
    for number in range(20):
        await cache.prefetch(lab_source(store, f"slow{number}"))


async def test_the_member_index_is_part_of_what_an_entry_reserves(new_cache, store, entry_files, monkeypatch):
    from shardgate_gateway.cache import partial_entry

    monkeypatch.setattr(partial_entry, "index_of", lambda fd, size: b"i" * (3 * MIB))
    cache = await new_cache(capacity_bytes=4 * MIB)
    store.write("fits", noise(MIB // 2))
    store.write("does not", noise(2 * MIB))
    assert await get(cache, lab_source(store, "fits")) == noise(MIB // 2)
    await cache.prefetch(lab_source(store, "fits"))
    assert len(entry_files()) == 1
    assert await get(cache, lab_source(store, "does not")) == noise(2 * MIB)
    await cache.prefetch(lab_source(store, "does not"))
    assert sum(path.stat().st_size for path in entry_files()) <= 4 * MIB
    assert cache._node.space.usage() == cache._node.space.recount()
