"""Random reads as in `test_random_reads.py`, through all of a gateway: cache, results that are kept, and our client."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
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

from shardgate import Client, ShardgateError, WDTransform, wire
from shardgate.notices import ResultWarning

if TYPE_CHECKING:
    from pathlib import Path

WAYS = (("fail", "never"), ("fail", "always"), ("skip", "auto"), ("warn", "always"))
"""Policies of the transforms of a gateway: errors, and what is kept."""


class Readers:
    """Reads through a whole gateway: twice each, so that the second may be of what was kept."""

    def __init__(self, gateway: Any, folder: Path) -> None:
        self._gateway = gateway
        self._folder = folder
        self._etls = {
            way: WDTransform(
                gateway.client, perform, "-".join(way), "", on_error=way[0], cache=way[1], sample_timeout=2
            )
            for way in WAYS
        }
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def attempt(self, number: int) -> None:
        dice = random.Random(f"{SEED}/gateway/{number}")
        trial, way = Trial(number, dice), dice.choice(WAYS)
        trial.on_error = way[0]
        where = self._folder / f"trial-{number}"
        where.mkdir()
        etl = self._etls[way]
        options = {"transform_id": etl.uuid, "args": json.dumps(trial.plan | {"folder": str(where)})}
        self.counts["trials"] += 1
        try:
            bodies = [self._read(trial, options) for _ in range(dice.choice((1, 2, 3)))]
            kept = {body for body, state in bodies if state == "hit"}
            assert len(kept) <= 1, "what was kept is not the same each time"
        except AssertionError as error:
            self.wrong.append(f"SHARDGATE_READS_SEED={SEED}:{number} (gateway, {way}): {error}\n  {trial}")
        shutil.rmtree(where)

    def _read(self, trial: Trial, options: dict[str, str]) -> tuple[bytes, str]:
        body = bytearray()
        kills, pauses = list(trial.kills), list(trial.pauses)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                with Client(self._gateway.endpoint).open("file://b", trial.key, **options) as reader:
                    state = reader.headers[wire.CACHE_HEADER]
                    while data := reader.read(1 << 16):
                        body += data
                        while kills and kills[0] <= len(body):
                            kills.pop(0)
                            self._kill()
                        while pauses and pauses[0] <= len(body):
                            pauses.pop(0)
                            time.sleep(RELEASE_SECONDS * 2)
            except ShardgateError as error:
                self.counts[f"broke off: {type(error).__name__}"] += 1
                check_beginning(bytes(body), trial.plan, contents(trial.key))
                return b"", "broken"
        gaps = any(issubclass(each.category, ResultWarning) and "lacks" in str(each.message) for each in told)
        self.counts[f"complete, {state}{', with gaps' * gaps}"] += 1
        assert not (gaps and state == "hit"), "a gap was kept"
        check_complete(bytes(body), trial.plan, contents(trial.key), trial.on_error, gaps=gaps)
        return bytes(body), state

    def _kill(self) -> None:
        for pid in self._gateway.etl_workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.counts["kills"] += 1


# As above, through all of a gateway.
@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_random_reads_through_a_gateway_give_whole_samples_of_one_run_or_break_off(
    start_gateway: Any, folder: Path, tmp_path: Path
) -> None:
    for key, body in BODIES.items():
        (folder / key).write_bytes(body)
    settings = {"etl.workers": 1, "etl.ring_bytes": RING, "etl.release_seconds": RELEASE_SECONDS}
    gateway = start_gateway({"file://b": folder}, settings=settings)
    readers = Readers(gateway, tmp_path)
    end = time.monotonic() + (float("inf") if TRIALS else SECONDS)
    for number in numbers_of_trials():
        if time.monotonic() > end:
            break
        readers.attempt(number)
    print(f"\nseed {SEED}, gateway: {dict(readers.counts)}")
    assert not readers.wrong, "\n".join(readers.wrong)
    assert (
        sum(count for name, count in readers.counts.items() if name.startswith("complete"))
        > readers.counts["trials"] / 4
    )
