"""What each transform did, summed over all gateways.

A job ends every few milliseconds when shards are small, and a transaction costs a disk flush. So sums are collected in
memory and written once a second in one transaction, by addition, so that several processes don't overwrite each other.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from sqlalchemy import update

from shardgate import wire
from shardgate_gateway import metrics
from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.state.tables import StatsRow, TransformRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from shardgate_gateway.state.database import Database

Outcome = Literal["completed", "failed", "abandoned", "released", "lost"]
"""How a job ended on one worker: with END, with FAIL, by a reader that left, by one that paused, or with the worker."""

FLUSH_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TransformStats:
    """Sums over jobs. `completed + failed + abandoned` are requests; `lost` are workers that died under one."""

    work: wire.Stats = field(default_factory=wire.Stats)
    completed: int = 0
    failed: int = 0
    abandoned: int = 0
    released: int = 0
    lost: int = 0

    def add(self, work: wire.Stats, outcome: Outcome) -> None:
        self.work.add(work)
        setattr(self, outcome, getattr(self, outcome) + 1)

    def merge(self, other: TransformStats) -> None:
        self.work.add(other.work)
        for name in get_args(Outcome):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def counters(self) -> dict[str, Any]:
        """Flat, as the database and the JSON API have it."""
        return asdict(self.work) | {name: getattr(self, name) for name in get_args(Outcome)}

    @classmethod
    def from_row(cls, row: StatsRow) -> TransformStats:
        work = wire.Stats(**{f.name: getattr(row, f.name) for f in fields(wire.Stats)})
        return cls(work, **{name: getattr(row, name) for name in get_args(Outcome)})


class StatsBook:
    """Collects, and writes in the background."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: dict[str, TransformStats] = {}
        self._flusher: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        """Held while sums are on their way to the database, so that a reader never looks in between."""

    def add(self, transform_id: str, work: wire.Stats, outcome: Outcome) -> None:
        self._pending.setdefault(transform_id, TransformStats()).add(work, outcome)
        metrics.ETL_JOBS.labels(outcome).inc()
        metrics.ETL_SAMPLES.inc(work.samples_out)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_soon())

    async def read(self, transform_id: str) -> TransformStats:
        await self._flush()
        row = await self._database.read(lambda session: session.get(StatsRow, transform_id))
        return TransformStats.from_row(row) if row else TransformStats()

    async def aclose(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        try:
            await self._flush()
        except LocalStorageError as error:
            log.warning("the last seconds of the transforms' stats are lost: %s", error)

    async def _flush_soon(self) -> None:
        while self._pending:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._flush()
            except LocalStorageError as error:
                log.warning("can't write the transforms' stats, trying again: %s", error)

    async def _flush(self) -> None:
        async with self._writing:
            pending, self._pending = self._pending, {}
            if not pending:
                return
            try:
                await self._database.write(lambda session: _add_all(session, pending))
            except BaseException:
                for transform_id, stats in pending.items():
                    self._pending.setdefault(transform_id, TransformStats()).merge(stats)
                raise


def _add_all(session: Session, pending: dict[str, TransformStats]) -> None:
    for transform_id, stats in sorted(pending.items()):  # in one order, so that gateways never wait for each other
        if session.get(TransformRow, transform_id) is None:
            continue  # deleted while its last job ran
        if session.get(StatsRow, transform_id) is None:
            session.add(StatsRow(transform_id=transform_id))
            session.flush()
        sums = {name: getattr(StatsRow, name) + value for name, value in stats.counters().items() if value}
        if sums:
            session.execute(update(StatsRow).where(StatsRow.transform_id == transform_id).values(sums))
