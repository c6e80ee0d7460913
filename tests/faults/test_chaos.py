"""Everything at once, at random: readers that compare every byte, and a killer that spares no process.

Nothing is asserted of speed. A read may take several tries, or fail loudly; what it may never be is wrong.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from gateway_process import eventually
from shards import shard

from shardgate import Client, GatewayError, ShardgateError, WDTransform

SECONDS = float(os.environ.get("SHARDGATE_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("SHARDGATE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
SHARDS = 6
READERS = 6


def reverse(sample):
    """Slow enough to be killed in the middle."""
    time.sleep(0.002)
    sample["bin"] = sample["bin"][::-1]
    sample["dice"] = repr(random.random()).encode()
    return sample


class Readers:
    """Threads that read at random and compare; `wrong` has to stay empty."""

    def __init__(self, endpoint: str, expected: dict[tuple[str, str], bytes]) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._expected = expected
        self._client = Client(endpoint, timeout=20)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(READERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a reader hangs"

    def _run(self, number: int) -> None:
        dice = random.Random(SEED + number)
        while not self._stop.is_set():
            what = dice.choice(sorted(self._expected))
            try:
                body, expected = self._read(what, dice)
            except ShardgateError as error:
                self.counts[f"failed loudly: {type(error).__name__}"] += 1
                time.sleep(0.05)
                continue
            self.counts["exact" if body == expected else "wrong"] += 1
            if body != expected:
                self.wrong.append(f"{what}: {len(body)} bytes in place of {len(expected)}")

    def _read(self, what: tuple[str, str], dice: random.Random) -> tuple[bytes, bytes]:
        key, transform = what
        expected = self._expected[what]
        options = {"transform_id": transform} if transform else {}
        with self._client.open("file://b", key, **options) as reader:
            wait = reader._sleep

            def count(seconds: float) -> None:
                self.counts["tries to read on"] += 1
                wait(seconds)

            reader._sleep = count
            if dice.random() < 0.3:  # the beginning only, as a reader that leaves
                size = dice.randrange(1, len(expected))
                return read_fully(reader, size), expected[:size]
            return reader.readall(), expected


def read_fully(reader, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (data := reader.read(size - len(received))):
        received += data
    return bytes(received)


def kill_at_random(gateway, dice: random.Random, counts: Counter[str]) -> None:
    """One process of any kind. Mostly the cheapest to replace, or else nothing would ever run that could be killed."""
    kinds = {"ETL worker": gateway.etl_workers, "runtime": gateway.runtimes, "gateway worker": gateway.workers}
    (kind,) = dice.choices(list(kinds), weights=(6, 1, 1))
    if pids := kinds[kind]():
        with suppress(ProcessLookupError):
            os.kill(dice.choice(pids), signal.SIGKILL)
            counts[kind] += 1


# A minute of random kills; most schedules that matter come up in that time.
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::shardgate.ResultWarning")  # one URL is read again and again on purpose
def test_random_kills_never_make_a_wrong_byte(start_gateway, folder):
    dice = random.Random(SEED)
    raw = {f"{index}.tar": shard(120, seed=index) for index in range(SHARDS)}
    for key, data in raw.items():
        (folder / key).write_bytes(data)
    settings = {
        "cache.part_bytes": 1 << 19,
        "cache.parallel_from_bytes": 1 << 20,
        "cache.memory_object_bytes": 0,
        "cache.capacity_bytes": 20_000_000,
    }
    gateway = start_gateway({"file://b": {"where": str(folder), "freshness": "always"}}, workers=2, settings=settings)
    etls = [WDTransform(gateway.client, reverse, cache, "", cache=cache) for cache in ("never", "always")]
    expected = {(key, ""): data for key, data in raw.items()}
    for etl in etls:
        expected |= {(key, etl.uuid): etl.get("file://b", key) for key in raw}

    readers, kills = Readers(gateway.endpoint, expected), Counter()
    readers.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(dice.uniform(0.05, 1.2))
        kill_at_random(gateway, dice, kills)
    readers.finish()

    print(f"\nseed {SEED}; killed {dict(kills)}; reads {dict(readers.counts)}")
    assert not readers.wrong
    assert readers.counts["exact"] > SHARDS
    assert kills.total() > SECONDS / 6
    eventually(lambda: readable(gateway, expected), seconds=60, what="an undisturbed read of everything")


def readable(gateway, expected: dict[tuple[str, str], bytes]) -> bool:
    """After the storm, everything is there, and as it was."""
    for (key, transform), data in expected.items():
        try:
            body = gateway.client.get("file://b", key, **({"transform_id": transform} if transform else {}))
        except GatewayError:
            return False
        assert body == data
    return True
