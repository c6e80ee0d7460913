"""What each transform did, summed over all gateways.

A job ends every few milliseconds when shards are small, and a transaction costs a disk flush. So sums are collected in
memory and written once a second in one transaction, by addition, so that several processes don't overwrite each other.

Numbers come from workers, which run user code. They are checked where they arrive, and again here, because one
transform's numbers must never keep those of others from being written: what a job can't have done is not added, sums
stop at the largest number of the database, and each transform is written in a savepoint of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from sqlalchemy import case, update
from sqlalchemy.exc import DataError

from shardgate import wire
from shardgate.text import safe_line
from shardgate_gateway import metrics
from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.state.tables import StatsRow, TransformRow

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute, Session

    from shardgate_gateway.state.database import Database

Outcome = Literal["completed", "failed", "abandoned", "released", "lost"]
"""How a job ended on one worker: with END, with FAIL, by a reader that left, by one that paused, or with the worker."""

FLUSH_SECONDS = 1.0
MAX_INT = (1 << 63) - 1
"""The largest number that the database holds."""

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
        if not _is_possible(work):
            log.warning("the stats of a job of %s are left out: they can't be", transform_id)
            work = wire.Stats()
        self._pending.setdefault(transform_id, TransformStats()).add(work, outcome)
        name = metrics.transform_label(transform_id)
        metrics.ETL_JOBS.labels(name, outcome).inc()
        metrics.ETL_SAMPLES.labels(name).inc(work.samples_out)
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


def _is_possible(work: wire.Stats) -> bool:
    """Whether these are finite numbers of what was done: a job has no more than the database can hold of all."""
    for f in fields(work):
        value = getattr(work, f.name)
        kinds = (int, float) if f.name.endswith("_seconds") else (int,)
        if type(value) not in kinds or not (math.isfinite(value) and 0 <= value <= MAX_INT):
            return False
    return True


def _add_all(session: Session, pending: dict[str, TransformStats]) -> None:
    for transform_id, stats in sorted(pending.items()):  # in one order, so that gateways never wait for each other
        try:
            with session.begin_nested():
                _add(session, transform_id, stats)
        except (DataError, OverflowError) as error:
            log.warning("the stats of %s can't be written, and are dropped: %s", transform_id, safe_line(error, 200))


def _add(session: Session, transform_id: str, stats: TransformStats) -> None:
    if session.get(TransformRow, transform_id) is None:
        return  # deleted while its last job ran
    if session.get(StatsRow, transform_id) is None:
        session.add(StatsRow(transform_id=transform_id))
        session.flush()
    sums = {name: _saturated(getattr(StatsRow, name), value) for name, value in stats.counters().items() if value}
    if sums:
        session.execute(update(StatsRow).where(StatsRow.transform_id == transform_id).values(sums))


def _saturated(column: InstrumentedAttribute[Any], value: Any) -> ColumnElement[Any]:
    """The sum, where integers stop at the largest one that the database holds."""
    if isinstance(value, float):
        return column + value
    value = min(value, MAX_INT)
    return case((column > MAX_INT - value, MAX_INT), else_=column + value)
