"""Followers of a filler that is killed, or that can't publish, at any of its steps."""

from __future__ import annotations

import asyncio
import errno
import os
import time

import pytest
from cache_lab import MIB, get, lab_source, noise, read

from shardgate_gateway.cache import partial_entry
from shardgate_gateway.cache.control import Control, Record
from shardgate_gateway.cache.layout import BODY_OFFSET

SIZES = pytest.mark.parametrize("size", [0, 3000, 2 * MIB], ids=["empty", "small", "large"])


@SIZES
@pytest.mark.parametrize("step", ["nothing", "garbage", "asked", "known", "reserved", "half", "whole", "body gone"])
async def test_a_follower_serves_the_object_at_whatever_step_its_filler_was_killed(
    tmp_path, new_cache, store, size, step
):
    body = noise(size)
    store.write("a", body)
    source, cache = lab_source(store, "a"), await new_cache()
    folder = tmp_path / "cache" / "fills"
    filler = Control.attach(str(folder / source.entry_name))
    record = Record(f"{source.entry_name}.1234", time.monotonic())
    if step not in {"asked", "nothing", "garbage"}:
        record.meta = await store.head("a")
    if step == "reserved":
        record.reserved = 9000
        assert cache._node.space.reserve(9000)
    record.watermark = {"half": size // 2, "whole": size}.get(step, 0)
    if step == "garbage":
        os.pwrite(filler.fd, b"garbage", 0)
    elif step != "nothing":
        filler.write(record)
    if step != "body gone":
        (folder / record.body).write_bytes(bytes(BODY_OFFSET) + body[: record.watermark])
    follower = asyncio.ensure_future(get(cache, source))
    await asyncio.sleep(0.05)
    filler.close()
    assert await asyncio.wait_for(follower, 20) == body
    await cache.prefetch(source)
    assert cache._node.space.usage() == cache._node.space.recount(), "what it had reserved was given back"


@pytest.fixture
def failing_publisher(monkeypatch):
    """Publishing fails as on a full disk, and each step of cleaning up takes its time."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    def slow_unlink(path):
        done = unlink(path)
        time.sleep(0.02)
        return done

    unlink = partial_entry.unlink
    monkeypatch.setattr(partial_entry, "seal", fail)
    monkeypatch.setattr(partial_entry, "unlink", slow_unlink)


@SIZES
async def test_a_follower_of_an_object_that_cannot_be_published_never_gets_another_body(
    new_cache, store, size, failing_publisher
):
    leader, follower = await new_cache(), await new_cache()
    for number in range(5):
        body = noise(size, number)
        store.write(f"{number}", body)
        gate = asyncio.Event()
        store.before_get = lambda key, start, gate=gate: None
        leading = asyncio.ensure_future(get(leader, lab_source(store, f"{number}")))
        await asyncio.sleep(0.003 * number)
        reading = await follower.open(lab_source(store, f"{number}"))
        if reading.file is not None:
            assert reading.file.length == size
        assert await read(reading) == body
        reading.aclose()
        assert await leading == body
        assert (await leader.head(lab_source(store, f"{number}"))).size == size


async def test_a_record_that_says_done_too_early_is_not_taken_for_a_body(tmp_path, new_cache, store):
    """A gateway of an older version, or a bug: the length decides."""
    from shardgate_gateway.cache.control import State

    body = noise(3000)
    store.write("a", body)
    source, cache = lab_source(store, "a"), await new_cache()
    folder = tmp_path / "cache" / "fills"
    filler = Control.attach(str(folder / source.entry_name))
    (folder / f"{source.entry_name}.1234").write_bytes(b"")
    filler.write(Record(f"{source.entry_name}.1234", time.monotonic(), State.DONE, 0, 0, await store.head("a")))
    follower = asyncio.ensure_future(get(cache, source))
    await asyncio.sleep(0.02)
    filler.remove()
    filler.close()
    assert await asyncio.wait_for(follower, 20) == body


async def test_a_follower_never_unlinks_the_control_file_of_the_next_fill(tmp_path, new_cache, store):
    """Only the holder of the lock removes; a follower that finds no body looks again."""
    store.write("a", noise(3000))
    source, cache = lab_source(store, "a"), await new_cache()
    control = tmp_path / "cache" / "fills" / source.entry_name
    filler = Control.attach(str(control))
    filler.write(Record(f"{source.entry_name}.gone", time.monotonic(), watermark=3000, meta=await store.head("a")))
    follower = asyncio.ensure_future(get(cache, source))
    await asyncio.sleep(0.05)
    assert control.stat().st_ino == filler.inode
    filler.close()
    assert await asyncio.wait_for(follower, 20) == noise(3000)


async def test_a_closed_cache_writes_nothing_after_it_gave_its_lock_back(new_cache, store, monkeypatch):
    """An heir may be writing to the same file by then."""
    from shardgate_gateway.cache import piece

    store.write("a", noise(6 * MIB))
    cache = await new_cache()
    running = []

    def slow(fd, buffers, offset):
        running.append(offset)
        time.sleep(0.2)
        write(fd, buffers, offset)
        running.remove(offset)

    write = piece.write_fully
    monkeypatch.setattr(piece, "write_fully", slow)
    reading = await cache.open(lab_source(store, "a"))
    while not running:  # noqa: ASYNC110 (a test may poll)
        await asyncio.sleep(0.001)
    closing = asyncio.ensure_future(cache.aclose())
    path = cache._node.layout.control(lab_source(store, "a").entry_name)
    while True:
        control = Control.attach(path)
        if control.locked:
            break
        control.close()
        await asyncio.sleep(0.001)
    assert not running
    record = control.read()
    control.close()
    assert record is not None
    assert record.watermark == reading._fill.watermark > 0, "what was written counts for the heir"
    await closing
