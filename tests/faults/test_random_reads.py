"""Functions of every mood, readers of every kind, workers killed at random: what comes is right, or breaks off.

`random_functions.py` has the function and the oracle. Most trials read from a relay, one runtime after the other for
all of them: one whose workers share memory with it, and one behind TCP that fetches its shards, as a pod does.
`test_random_reads_of_a_gateway.py` does the same with all of a gateway, and results that are kept.

    SHARDGATE_READS_SECONDS=3600 pytest tests/faults/test_random_reads.py    # for so long
    SHARDGATE_READS_TRIALS=10000                                             # or so many, each way
    SHARDGATE_READS_SEED=7:1234                                              # repeat one trial of the seed 7
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import ExitStack, aclosing, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import xxhash
from etl import etl_in
from random_functions import check_beginning, check_complete, perform
from random_trials import (
    BODIES,
    LIMIT,
    RELEASE_SECONDS,
    RING,
    SECONDS,
    SEED,
    TRIALS,
    Trial,
    contents,
    numbers_of_trials,
)
from readers import READ_SECONDS
from runtime_process import start_runtime
from servers_faulty import Fault, FaultyOrigin
from tcp_runner import RemoteReading, TcpRunner

from shardgate.capture import capture
from shardgate.urls import Bucket, object_path
from shardgate_gateway.errors import GatewayError
from shardgate_gateway.etl.pipeline import Stage
from shardgate_gateway.etl.recipe import Asker, Recipe
from shardgate_gateway.etl.relay import Relay
from shardgate_gateway.etl.transform_request import TransformRequest
from shardgate_gateway.stores.base import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from etl import Etl

    from shardgate_gateway.etl.transform_record import TransformRecord


@dataclass
class Lane:
    """One way to workers, and its trials one after the other.

    Attributes:
        request: Opens a request of a trial.
        workers: Pids of those that a transform has.
    """

    name: str
    relay: Relay
    records: dict[str, TransformRecord]
    request: Callable[[Trial, str], AbstractAsyncContextManager[TransformRequest]]
    workers: Callable[[TransformRecord], list[int]]
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def run(self, numbers: Any, end: float) -> None:
        for number in numbers:
            if time.monotonic() > end:
                return
            await self.attempt(Trial(number, random.Random(f"{SEED}/{self.name}/{number}")))

    async def attempt(self, trial: Trial) -> None:
        where = self.folder / f"{self.name}-{trial.number}"
        where.mkdir()
        try:
            await self._try(trial, str(where))
        except AssertionError as error:
            self.wrong.append(f"SHARDGATE_READS_SEED={SEED}:{trial.number} ({self.name}): {error}\n  {trial}")
        shutil.rmtree(where)

    async def _try(self, trial: Trial, where: str) -> None:
        body, gaps = bytearray(), 0
        self.counts["trials"] += 1
        try:
            async with asyncio.timeout(READ_SECONDS):
                whole, gaps = await self._read(trial, where, body)
                if not whole and trial.returns:
                    trial.leaves = None
                    whole, more = await self._read(trial, where, body)
                    gaps += more
        except GatewayError as error:
            self._judge_broken(trial, bytes(body), error)
        except TimeoutError:
            raise AssertionError("it hangs") from None
        else:
            self._judge(trial, bytes(body), whole=whole, gaps=gaps)

    def _judge_broken(self, trial: Trial, body: bytes, error: GatewayError) -> None:
        self.counts[f"broke off: {type(error).__name__}"] += 1
        assert not trial.is_calm, f"nothing happened, and it broke off: {error.message}"
        check_beginning(body, trial.plan, contents(trial.key))

    def _judge(self, trial: Trial, body: bytes, *, whole: bool, gaps: int) -> None:
        if not whole:
            self.counts["left"] += 1
            check_beginning(body, trial.plan, contents(trial.key))
            return
        self.counts["complete, with gaps" if gaps else "complete"] += 1
        check_complete(body, trial.plan, contents(trial.key), trial.on_error, gaps=gaps > 0)

    async def _read(self, trial: Trial, where: str, body: bytearray) -> tuple[bool, int]:
        """Read on from the end of `body`; whether it came to the end, and how many gaps were told of."""
        record = self.records[trial.on_error]
        killing = asyncio.create_task(self._kill_early(trial, record))
        kills, pauses = list(trial.kills), list(trial.pauses)
        prefix = xxhash.xxh3_128(body).digest() if body else b""
        try:
            async with (
                self.request(trial, where) as request,
                aclosing(self.relay.stream(request, skip=len(body), prefix=prefix)) as chunks,
            ):
                async for chunk in chunks:
                    while kills and kills[0] <= len(body):
                        kills.pop(0)
                        self._kill(trial, record)
                    while pauses and pauses[0] <= len(body):
                        pauses.pop(0)
                        await asyncio.sleep(RELEASE_SECONDS * trial.dice.choice((0.9, 1.5, 3)))
                    if trial.slow:
                        await asyncio.sleep(0.005)
                    body += chunk
                    if trial.leaves is not None and len(body) >= trial.leaves:
                        return False, request.found.gaps
                return True, request.found.gaps
        finally:
            killing.cancel()

    async def _kill_early(self, trial: Trial, record: TransformRecord) -> None:
        if trial.early is not None:
            await asyncio.sleep(trial.early)
            self._kill(trial, record)

    def _kill(self, trial: Trial, record: TransformRecord) -> None:
        for pid in self.workers(record):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.counts["kills"] += 1


def args_of(trial: Trial, where: str) -> str:
    return json.dumps(trial.plan | {"folder": where})


def ring_lane(etl: Etl, records: dict[str, TransformRecord], folder: Path) -> Lane:
    def request(trial: Trial, where: str) -> AbstractAsyncContextManager[TransformRequest]:
        return etl.request(records[trial.on_error], trial.key, args=args_of(trial, where))

    return Lane("ring", etl.relay, records, request, etl.worker_pids, folder)


class Tcp:
    """Runtimes behind TCP, and the server that has their shards."""

    def __init__(self, etl: Etl, records: dict[str, TransformRecord], packages: dict[str, bytes], folder: Path) -> None:
        self._etl = etl
        self._records = records
        self._packages = packages
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Lane:
        self._origin = self._stack.enter_context(FaultyOrigin())
        for key, body in BODIES.items():
            self._origin.put(self._path(key), body)
        self.runtimes = {}
        for policy, record in self._records.items():
            package = (record.id, self._packages[policy])
            runtime = start_runtime(self._folder / policy, package, listen="tcp:127.0.0.1:0")
            self.runtimes[record.id] = self._stack.enter_context(runtime)
        for runtime in self.runtimes.values():
            runtime.wait_for("ready")
        runner, registry, settings = TcpRunner(self.runtimes), self._etl.registry, self._etl.settings
        relay = Relay(
            runner, registry, settings, endpoint=self._origin.url, sign=lambda _: "", seal=lambda text, _: text
        )
        return Lane("tcp", relay, self._records, self._request, self._workers, self._folder)

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _workers(self, record: TransformRecord) -> list[int]:
        return self.runtimes[record.id].workers()

    def _path(self, key: str) -> str:
        return object_path(Bucket("gcp", "shards"), key, {}).lstrip("/").partition("?")[0]

    def _request(self, trial: Trial, where: str) -> AbstractAsyncContextManager[TransformRequest]:
        size = len(BODIES[trial.key])
        meta = ObjectMeta(trial.key, size, "v1", weak=trial.weak)
        path = self._path(trial.key)
        headers = {"ETag": meta.etag_header}
        self._origin.heal(path)
        self._origin.requests.clear()
        if trial.breaks is not None:
            self._origin.fail(path, Fault(after=min(trial.breaks, size - 1), ending="reset", headers=headers))
        self._origin.fail(path, Fault(headers=headers), times=100)
        reading: Any = RemoteReading(meta)
        return nullcontext(
            TransformRequest(
                recipe=Recipe((Stage(self._records[trial.on_error], args_of(trial, where)),)),
                source=self._etl.source(trial.key),
                reading=reading,
                asker=Asker("test"),
            )
        )


async def register(etl: Etl) -> tuple[dict[str, TransformRecord], dict[str, bytes]]:
    records, packages = {}, {}
    for policy, limit in (("fail", 0.0), ("skip", 2.0)):
        options: dict[str, Any] = {"name": policy, "on_error": policy, "sample_timeout": limit, "decoder": ""}
        _, packages[policy] = capture(perform, **options)
        records[policy] = await etl.register(perform, **options)
        await etl.runner.ensure(records[policy])
    return records, packages


@pytest.fixture
async def lanes(tmp_path: Path) -> AsyncIterator[list[Lane]]:
    settings = {"workers": 1, "ring_bytes": RING, "release_seconds": RELEASE_SECONDS, "idle_seconds": 3600}
    async with etl_in(tmp_path / "etl", **settings) as etl:
        for key, body in BODIES.items():
            etl.put(key, body)
        records, packages = await register(etl)
        with Tcp(etl, records, packages, tmp_path) as tcp:
            yield [ring_lane(etl, records, tmp_path), tcp]


# Random reads for twenty seconds; a few hundred of them, of which those that matter are a part.
@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
async def test_random_reads_give_whole_samples_of_one_run_or_break_off(lanes: list[Lane]) -> None:
    end = time.monotonic() + (float("inf") if TRIALS else SECONDS)
    await asyncio.gather(*(lane.run(numbers_of_trials(), end) for lane in lanes))
    for lane in lanes:
        print(f"\nseed {SEED}, {lane.name}: {dict(lane.counts)}")
    wrong = [text for lane in lanes for text in lane.wrong]
    assert not wrong, "\n".join(wrong)
    assert all(lane.counts["complete"] > lane.counts["trials"] / 4 for lane in lanes)


@pytest.mark.parametrize("mood", ["steady", "draws", "vanishes"])
async def test_samples_of_six_megabytes_are_never_mixed_over_a_ring_or_tcp(
    lanes: list[Lane], tmp_path: Path, mood: str
) -> None:
    size = 6_000_000
    places = [size // 2, size + 100_000, 2 * size - 100, 3 * size + size // 3]
    for number, lane in itertools.product(range(4), lanes):
        trial = Trial(number, random.Random(number), weak=number == 3)
        trial.key, trial.on_error, trial.leaves, trial.early, trial.breaks = "4.tar", "skip", None, None, None
        trial.plan = {"seed": number, "moods": [mood, "steady"], "size": size}
        trial.kills = places[number : number + 1] if number < 3 else places
        trial.pauses = places[1:3] if number == 2 else []
        await lane.attempt(trial)
    for lane in lanes:
        assert not lane.wrong, "\n".join(lane.wrong)
        assert mood != "steady" or lane.counts["complete"] + lane.counts["complete, with gaps"] == 4
