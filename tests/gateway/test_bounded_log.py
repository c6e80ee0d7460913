"""A flood of records is cut, and what was cut is counted."""

from __future__ import annotations

import logging
import re

import pytest

from shardgate_gateway import bounded_log
from shardgate_gateway.bounded_log import BURST, BoundedLog

log = logging.getLogger("shardgate_gateway.test")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_no_flood_writes_more_than_the_bound_and_every_record_is_accounted_for(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    bounded = BoundedLog(log, "floods", clock)
    for _ in range(10_000):
        bounded.write(logging.WARNING, "one of them")
    clock.now = 3
    for _ in range(10_000):
        bounded.write(logging.WARNING, "one of them")
    bounded.tell()
    written = sum(record.message == "one of them" for record in caplog.records)
    omitted = [int(found[1]) for found in (re.match(r"(\d+) more floods", r.message) for r in caplog.records) if found]
    assert written == BURST + 3
    assert written + sum(omitted) == 20_000


async def test_what_was_left_out_is_told_when_the_flood_is_over(
    caplog: pytest.LogCaptureFixture, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_log, "TELL_SECONDS", 0)
    bounded = BoundedLog(log, "floods", clock)
    for _ in range(BURST + 7):
        bounded.write(logging.WARNING, "one of them")
    timer = bounded._timer
    assert timer is not None
    while bounded._timer is not None:
        await bounded_log.asyncio.sleep(0.001)
    assert caplog.records[-1].message == "7 more floods are left out of this log"
