"""What dead processes leave in the folder of fills."""

from __future__ import annotations

import os
import time

from cache_lab import MIB, get, lab_source, noise

from shardgate_gateway.cache.control import Control, Record, State
from shardgate_gateway.cache.layout import BODY_OFFSET
from shardgate_gateway.cache.sweep import KEEP_SECONDS
from shardgate_gateway.stores.base import ObjectMeta

NAME = "ab" * 32


def leave_fill(folder, *, state=State.FILLING, name=NAME, **changes) -> None:
    (folder / "fills").mkdir(parents=True, exist_ok=True)
    control = Control.attach(str(folder / "fills" / name))
    control.write(Record(f"{name}.1234", 0.0, state, 100, 5000, ObjectMeta("k", 1000, "e"), **changes))
    control.close()
    (folder / "fills" / f"{name}.1234").write_bytes(bytes(5096))


async def test_a_fill_that_can_be_resumed_is_kept_for_a_while(tmp_path, new_cache, fill_files):
    leave_fill(tmp_path / "cache")
    cache = await new_cache()
    assert len(fill_files()) == 2
    assert (await cache.stat()).used_bytes == 5000, "and its space stays reserved"
    old = time.time() - KEEP_SECONDS - 1
    os.utime(tmp_path / "cache" / "fills" / NAME, (old, old))
    assert (await (await new_cache()).stat()).used_bytes == 0
    assert not fill_files()


async def test_a_fill_that_cannot_be_resumed_is_removed(tmp_path, new_cache, fill_files):
    folder = tmp_path / "cache"
    leave_fill(folder, name="01" * 32, boot="an earlier one")
    leave_fill(folder, name="02" * 32, state=State.OPENING)
    leave_fill(folder, name="03" * 32, state=State.FAILED)
    (folder / "fills" / ("04" * 32)).write_bytes(b"")
    (folder / "fills" / ("05" * 32)).write_bytes(b"no record at all")
    (folder / "fills" / (("06" * 32) + ".abcd")).write_bytes(b"a body without control")
    await new_cache()
    assert not fill_files()


async def test_a_fill_whose_filler_lives_is_not_touched(tmp_path, new_cache, fill_files):
    leave_fill(tmp_path / "cache", boot="an earlier one")
    living = Control.attach(str(tmp_path / "cache" / "fills" / NAME))
    await new_cache()
    assert len(fill_files()) == 2
    living.close()
    await new_cache()
    assert not fill_files()


async def test_a_filler_that_died_before_it_knew_anything_is_no_obstacle(tmp_path, new_cache, store):
    cache = await new_cache()
    source = lab_source(store, "a")
    store.write("a", noise(MIB))
    leave_fill(tmp_path / "cache", name=source.entry_name, state=State.OPENING)
    assert await get(cache, source) == noise(MIB)
    (tmp_path / "cache" / "fills" / source.entry_name).write_bytes(b"garbage")
    await cache.invalidate(source)
    assert await get(cache, source) == noise(MIB)


async def test_a_filler_that_died_between_its_last_byte_and_publishing_left_work_for_its_heir(
    tmp_path, new_cache, store, entry_files
):
    store.write("a", noise(2 * MIB))
    source = lab_source(store, "a")
    leave_fill(tmp_path / "cache", name=source.entry_name)
    control = Control.attach(str(tmp_path / "cache" / "fills" / source.entry_name))
    body = f"{source.entry_name}.1234"
    meta = await store.head("a")
    control.write(Record(body, time.monotonic(), State.COMPLETE, 2 * MIB, 0, meta))
    control.close()
    (tmp_path / "cache" / "fills" / body).write_bytes(bytes(BODY_OFFSET) + noise(2 * MIB) + b"half a footer")
    cache = await new_cache()
    await cache.prefetch(source)
    assert len(entry_files()) == 1
    assert await get(await new_cache(), source) == noise(2 * MIB)
    assert store.fetched == 0
