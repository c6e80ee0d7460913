"""Periodic jobs go on whatever happens in one run, and end with their supervisor."""

from __future__ import annotations

import asyncio

import pytest
from etl import eventually

from shardgate_gateway import metrics
from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.jobs.periodic import Periodic
from shardgate_gateway.jobs.supervisor import JobSupervisor


def counted(name: str, outcome: str) -> float:
    return metrics.JOB_RUNS.labels(name, outcome)._value.get()


@pytest.mark.parametrize("error", [LocalStorageError("no disk"), RuntimeError("a bug")])
async def test_a_run_that_fails_does_not_end_the_job(error, caplog):
    runs = []

    async def run():
        runs.append(len(runs))
        if len(runs) % 2:
            raise error

    name = f"fails with {type(error).__name__}"
    async with JobSupervisor() as jobs:
        jobs.start(Periodic(name, 0.001, run))
        await eventually(lambda: len(runs) >= 6)
    assert name in caplog.text
    assert counted(name, "failed") >= 3
    assert counted(name, "done") >= 2


async def test_a_job_never_runs_twice_at_a_time_and_is_cancelled_at_the_end():
    inside, ended = [], []

    async def run():
        inside.append(1)
        assert len(inside) == len(ended) + 1
        try:
            await asyncio.sleep(0.01 if len(inside) < 4 else 1000)
        finally:
            ended.append(1)

    async with JobSupervisor() as jobs:
        jobs.start(Periodic("slow", 0.0, run))
        await eventually(lambda: len(inside) == 4)
    assert len(ended) == 4


async def test_two_jobs_of_one_name_are_refused():
    async def run(): ...

    async with JobSupervisor() as jobs:
        jobs.start(Periodic("same", 1000, run))
        with pytest.raises(ValueError, match="a job 'same' already"):
            jobs.start(Periodic("same", 1000, run))


def test_gateways_that_start_together_do_not_run_a_job_at_the_same_time():
    async def run(): ...

    job = Periodic("spread", 100.0, run)
    pauses = [job.pause() for _ in range(200)]
    assert all(50 <= pause <= 150 for pause in pauses)
    assert len(set(pauses)) > 100
