"""Work in the background goes on after a turn that failed."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from contextlib import asynccontextmanager

import pytest
from cache_lab import MIB, get, lab_source, noise

from shardgate_gateway.cache import cache as module
from shardgate_gateway.cache import scrub
from shardgate_gateway.jobs.supervisor import JobSupervisor


class Failing:
    """Fails at first, and then counts."""

    def __init__(self, real, times=2):
        self.real, self.times, self.calls = real, times, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.real(*args, **kwargs)


@asynccontextmanager
async def at_work(cache):
    """Its jobs run."""
    async with JobSupervisor() as jobs:
        for job in cache.jobs():
            jobs.start(job)
        yield


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (a test may poll)
            await asyncio.sleep(0.005)


async def test_sweeping_and_evicting_go_on_after_an_error(new_cache, monkeypatch, caplog):
    monkeypatch.setattr(module, "HOUSEKEEPING_SECONDS", 0.01)
    cache = await new_cache()
    sweeping = Failing(module.sweep)
    monkeypatch.setattr(module, "sweep", sweeping)
    evicting = Failing(cache._node.space.make_room)
    monkeypatch.setattr(cache._node.space, "make_room", evicting)
    with caplog.at_level(logging.ERROR):
        async with at_work(cache):
            await until(lambda: sweeping.calls >= 5 and evicting.calls >= 5)
    assert "job keep the cache in order failed" in caplog.text


@pytest.mark.parametrize("what", ["scan", "open"])
async def test_scrubbing_goes_on_after_an_error_and_removes_nothing_for_it(
    new_cache, store, monkeypatch, entry_files, what
):
    monkeypatch.setattr(scrub, "PASS_SECONDS", 0.01)
    store.write("a", noise(MIB))
    cache = await new_cache(scrub_bytes_per_second=1 << 40)
    await cache.prefetch(lab_source(store, "a"))
    failing = Failing(scrub.scan if what == "scan" else scrub.Entry)
    monkeypatch.setattr(scrub, "scan" if what == "scan" else "Entry", failing)
    async with at_work(cache):
        await until(lambda: failing.calls >= 5)
    assert len(entry_files()) == 1
    assert cache.counters.corrupt == 0


async def test_eviction_after_a_fill_is_tried_again_after_an_error(new_cache, store, monkeypatch, entry_files):
    cache = await new_cache(capacity_bytes=10 * MIB, high_watermark=0.5, low_watermark=0.3)
    evicting = Failing(cache._node.space.make_room, times=1)
    monkeypatch.setattr(cache._node.space, "make_room", evicting)
    for number in range(9):
        store.write(f"{number}", noise(MIB, number))
        assert await get(cache, lab_source(store, f"{number}")) == noise(MIB, number)
        await cache.prefetch(lab_source(store, f"{number}"))
    await until(lambda: cache.counters.evictions)
