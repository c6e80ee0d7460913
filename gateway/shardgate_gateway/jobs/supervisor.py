"""Runs periodic jobs, counts their runs, and ends them with the gateway.

A run that fails is logged and counted, and the job goes on: a full disk, a database that is away or a bug in one run
never ends it. A job never runs twice at a time in one process; nothing here keeps other processes from running it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from shardgate_gateway import metrics
from shardgate_gateway.errors import GatewayError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from shardgate_gateway.jobs.periodic import Periodic

log = logging.getLogger(__name__)


class JobSupervisor:
    """All periodic jobs of one process, as an async context: they are cancelled where it ends."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def start(self, job: Periodic) -> None:
        """Begin to run a job.

        Raises:
            ValueError: There is one of this name already.
        """
        if job.name in self._tasks:
            raise ValueError(f"there is a job {job.name!r} already")
        self._tasks[job.name] = asyncio.create_task(self._repeat(job), name=job.name)

    async def _repeat(self, job: Periodic) -> None:
        while True:
            await asyncio.sleep(job.pause())
            began = time.monotonic()
            outcome = await _run_once(job)
            metrics.JOB_RUNS.labels(job.name, outcome).inc()
            metrics.JOB_SECONDS.labels(job.name).inc(time.monotonic() - began)


async def _run_once(job: Periodic) -> str:
    try:
        await job.run()
    except GatewayError as error:
        log.warning("job %s: %s", job.name, error)
        return "failed"
    except Exception:
        log.exception("job %s failed", job.name)
        return "failed"
    return "done"
