"""A bucket that counts and fails, caches in front of it, and processes with caches."""

from __future__ import annotations

import resource

import pytest
from cache_lab import UPSTREAM, FolderStore, lab_settings
from cache_process import CacheProcess

from shardgate_gateway.cache.cache import Cache


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


@pytest.fixture
async def new_cache(tmp_path, store):
    """Start a cache of this process; several share the folder as several processes would."""
    started = []

    async def start(upstream=UPSTREAM, **settings):
        cache = Cache(lab_settings(tmp_path / "cache", **settings), upstream)
        await cache.start()
        started.append(cache)
        return cache

    yield start
    for cache in started:
        await cache.aclose()
    assert store.open_streams == 0


@pytest.fixture
async def cache(new_cache):
    return await new_cache()


@pytest.fixture
async def new_process(tmp_path, store):
    started = []

    async def start(**options):
        process = await CacheProcess.start(store, tmp_path / "cache", **options)
        started.append(process)
        return process

    yield start
    for process in started:
        await process.kill()


@pytest.fixture
def entry_files(tmp_path):
    """Paths of all published entries."""
    return lambda: [path for path in (tmp_path / "cache" / "entries").rglob("*") if path.is_file()]


@pytest.fixture
def fill_files(tmp_path):
    return lambda: list((tmp_path / "cache" / "fills").iterdir())


@pytest.fixture
def file_limit():
    """Every write beyond so many bytes of a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
