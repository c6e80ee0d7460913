"""Two caches on one folder, driven at random, against a dict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from cache_lab import UPSTREAM, FolderStore, get, lab_settings, lab_source, noise
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shardgate_gateway.cache.cache import Cache
from shardgate_gateway.cache.source import Freshness
from shardgate_gateway.cache.space import scan
from shardgate_gateway.errors import NotFound, UpstreamUnavailable

KEYS = st.sampled_from(["a.tar", "b.json", "c"])
SIZES = st.sampled_from([0, 1, 4000, 65_537, 300_000, 1_100_000])
CACHES = st.integers(0, 1)
CAPACITY = 3_000_000


class CacheModel(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="cache-model"))
        self.store = FolderStore(self.folder / "store")
        self.loop = asyncio.new_event_loop()
        self.objects: dict[str, bytes] = {}
        self.number = 0
        self.caches: list[Cache] = [self.start(), self.start()]

    def run(self, work):
        return self.loop.run_until_complete(work)

    def start(self) -> Cache:
        config = lab_settings(self.folder / "cache", capacity_bytes=CAPACITY, part_bytes=256 << 10, memory_bytes=20_000)
        cache = Cache(config, UPSTREAM)
        self.run(cache.start())
        return cache

    def source(self, key: str, freshness: Freshness | None = None):
        return lab_source(self.store, key, freshness or Freshness.immutable())

    @rule(key=KEYS, size=SIZES, cache=CACHES)
    def put(self, key, size, cache):
        """Through the gateway: every cache must give the new version at once."""
        self.number += 1
        self.objects[key] = noise(size, self.number)
        self.store.write(key, self.objects[key])
        self.run(self.caches[cache].invalidate(self.source(key)))

    @rule(key=KEYS, cache=CACHES)
    def delete(self, key, cache):
        if self.objects.pop(key, None) is not None:
            self.store.remove(key)
            self.run(self.caches[cache].invalidate(self.source(key)))

    @rule(key=KEYS, cache=CACHES, share=st.tuples(st.floats(0, 1), st.floats(0, 1)))
    def read(self, key, cache, share):
        try:
            whole = self.objects[key]
            start, end = sorted(int(part * len(whole)) for part in share)
            assert self.run(get(self.caches[cache], self.source(key), start, end)) == whole[start:end]
            assert self.run(get(self.caches[cache], self.source(key))) == whole
        except KeyError:
            try:
                self.run(get(self.caches[cache], self.source(key)))
            except NotFound:
                return
            raise AssertionError("it was deleted") from None

    @rule(key=KEYS, cache=CACHES, size=SIZES)
    def change_behind_our_back(self, key, cache, size):
        self.number += 1
        self.objects[key] = noise(size, self.number)
        self.store.write(key, self.objects[key])
        assert self.run(get(self.caches[cache], self.source(key, Freshness.always()))) == self.objects[key]
        self.run(self.caches[cache].prefetch(self.source(key)))

    @rule(key=KEYS, cache=CACHES, times=st.integers(1, 4))
    def read_while_the_network_fails(self, key, cache, times):
        left = [times]

        def fail(_key, _at):
            if left[0]:
                left[0] -= 1
                raise UpstreamUnavailable("reset")

        self.store.before_chunk = fail
        try:
            assert self.run(get(self.caches[cache], self.source(key))) == self.objects[key]
        except (UpstreamUnavailable, NotFound, KeyError):
            pass
        finally:
            self.store.before_chunk = lambda key, at: None

    @rule(key=KEYS, cache=CACHES)
    def evict(self, key, cache):
        self.run(self.caches[cache].evict(self.source(key)))

    @rule(key=KEYS, at=st.floats(0, 1))
    def damage(self, key, at):
        path = Path(self.caches[0]._node.layout.entry(self.source(key).entry_name))
        if path.exists():
            place = min(int(at * path.stat().st_size), path.stat().st_size - 1)
            with path.open("r+b") as file:
                file.seek(place)
                byte = file.read(1)
                file.seek(place)
                file.write(bytes([byte[0] ^ 0xFF]))

    @rule(cache=CACHES)
    def restart(self, cache):
        self.run(self.caches[cache].aclose())
        self.caches[cache] = self.start()

    @invariant()
    def the_disk_is_bounded(self):
        if hasattr(self, "caches"):
            assert sum(found.size for found in scan(self.caches[0]._node.layout)) <= CAPACITY

    def teardown(self):
        if not hasattr(self, "caches"):
            return
        for cache in self.caches:
            self.run(cache.aclose())
        last = self.start()
        for key, body in self.objects.items():
            self.run(last.prefetch(self.source(key)))
            assert self.run(get(last, self.source(key))) == body
        self.run(last.aclose())
        left = {path.name[:64] for path in (self.folder / "cache" / "fills").iterdir()}
        assert not left & {self.source(key).entry_name for key in self.objects}, "a fill was left behind"
        self.loop.close()
        shutil.rmtree(self.folder)


TestCacheModel = CacheModel.TestCase
TestCacheModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
