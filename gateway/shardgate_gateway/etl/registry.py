"""Which transforms there are.

A package is content-addressed: its id holds the digest of its bytes, so the same code registers as the same transform
and new code can never be taken for old. A name is an alias that moves to whatever was registered last under it; old ids
keep working. The gateway reads the manifest (plain msgpack) and stores the rest unread: it never unpickles.

Rows are in the database (`transform_rows.py`), packages in a store (`packages.py`).

While the database is away, transforms that were asked for before are still known: a name goes on to mean what it meant
last.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.errors import LocalStorageError, NotFound
from shardgate_gateway.etl import transform_rows as rows
from shardgate_gateway.etl.stats import Outcome, StatsBook, TransformStats
from shardgate_gateway.etl.transform_record import record_of
from shardgate_gateway.state.tables import TransformRow

if TYPE_CHECKING:
    from shardgate_gateway.etl.options import TransformOptions
    from shardgate_gateway.etl.packages import Packages
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.state.database import Database

LOOKUP_SECONDS = 1.0
"""How long a process may go on with a name's old meaning after another process moved it."""
LOOKUPS = 4096
PAGE = 200
"""Transforms that are listed at once."""
log = logging.getLogger(__name__)


class Registry:
    """All transforms of this gateway and its peers.

    Args:
        database: Holds the rows.
        packages: Holds the packages.
    """

    def __init__(self, database: Database, packages: Packages) -> None:
        self._database = database
        self._packages = packages
        self._lookups: dict[str, tuple[TransformRecord, float]] = {}
        self._stats = StatsBook(database)

    async def add(
        self, manifest: wire.Manifest, package: bytes, options: TransformOptions, *, created_by: str = ""
    ) -> TransformRecord:
        """Store a package that was checked, point its name at it, and set its options. Idempotent.

        Raises:
            LocalStorageError: The database failed.
            UpstreamError: The package store failed.
        """
        transform_id, digest = await asyncio.to_thread(_names_of, manifest.name, package)
        row = TransformRow(
            id=transform_id,
            name=manifest.name,
            digest=digest,
            manifest=asdict(manifest),
            options=options.model_dump(mode="json"),
            package_bytes=len(package),
            created_at=datetime.now(UTC),
            created_by=created_by,
        )
        self._lookups.clear()
        known = await self._database.write(lambda session: rows.update(session, row))
        is_new = known is None
        if known is None:
            row.package_key = await self._packages.put(row.id, package)
            known = await self._database.write(lambda session: rows.insert(session, row))
            if known.package_key != row.package_key:  # another gateway registered the same package meanwhile
                await self._packages.delete(row.package_key)
                is_new = False
        self._lookups.clear()
        return replace(record_of(known), is_new=is_new)

    async def meaning(self, name: str) -> str:
        """The id of the transform that the name means now; empty where it means none. Raises LocalStorageError."""
        return await self._database.read(lambda session: rows.meaning(session, name))

    async def find(self, name_or_id: str) -> TransformRecord:
        """The transform with this id, or the one that this name means now, whichever gateway was told so.

        Raises:
            NotFound: There is none.
            LocalStorageError: The database failed.
        """
        return record_of(await self._database.read(lambda session: rows.find(session, name_or_id)))

    async def resolve(self, name_or_id: str) -> TransformRecord:
        """As `find`, for readers: remembered for a moment, and longer while the database is away."""
        now = time.monotonic()
        known, until = self._lookups.get(name_or_id, (None, 0.0))
        if known is not None and now < until:
            return known
        if known is not None:  # while one asks the database, which may take long, the others go on with this
            self._lookups[name_or_id] = known, now + LOOKUP_SECONDS
        try:
            record = await self.find(name_or_id)
        except NotFound:
            self._lookups.pop(name_or_id, None)
            raise
        except LocalStorageError as error:
            if known is None:
                raise
            log.warning("%s goes on to mean %s: %s", name_or_id, known.id, error)
            return known
        if len(self._lookups) >= LOOKUPS:
            self._lookups.clear()
        self._lookups[name_or_id] = record, now + LOOKUP_SECONDS
        return record

    async def learn(
        self,
        record: TransformRecord,
        *,
        environment: dict[str, str] | None = None,
        random: bool = False,
        unstable: bool = False,
    ) -> TransformRecord:
        """Remember what a worker said of a transform's environment and samples; the record as it is now.

        Raises:
            NotFound: It was deleted meanwhile.
            LocalStorageError: The database failed.
        """
        known = replace(
            record,
            environment=record.environment if environment is None else environment,
            is_random=record.is_random or random,
            is_unstable=record.is_unstable or unstable,
        )
        if known == record:
            return record
        row = await self._database.write(lambda session: rows.learn(session, known, environment))
        learned = record_of(row)
        for name, (found, until) in self._lookups.items():
            if found.id == learned.id:
                self._lookups[name] = learned, until
        return learned

    async def page(self, after: str = "", limit: int = PAGE) -> tuple[list[TransformRecord], str]:
        """Some transforms, the newest first, and what to give as `after` for the next page; "" if there is none.

        Rows become records in the database's thread: nobody waits on the loop for it.

        Raises:
            BadRequest: `after` is not from here.
        """
        place = rows.place_in(after) if after else None
        records = await self._database.read(
            lambda session: [record_of(row) for row in rows.page(session, place, limit + 1)]
        )
        more = len(records) > limit
        records = records[:limit]
        return records, f"{records[-1].created_at.isoformat()}~{records[-1].id}" if more else ""

    async def list(self) -> list[TransformRecord]:
        """All transforms, the newest first."""
        found: list[TransformRecord] = []
        after = ""
        while True:
            records, after = await self.page(after)
            found += records
            if not after:
                return found

    async def delete(self, id: str) -> None:  # noqa: A002 (it is one)
        """Forget a transform, its alias and its stats. A name that meant it means nothing until it is registered again.

        Raises:
            NotFound: There is no transform with this id.
        """
        key = await self._database.write(lambda session: rows.remove(session, id))
        self._lookups.clear()
        await self._packages.delete(key)

    async def package(self, id: str) -> bytes:  # noqa: A002
        """The package as it was registered, checked against its digest.

        Raises:
            NotFound: There is no transform with this id.
            UpstreamCorrupt: The store holds other bytes.
        """
        row = await self._database.read(lambda session: rows.find(session, id))
        return await self._packages.get(row.id, row.package_key, row.digest)

    async def stats(self, id: str) -> TransformStats:  # noqa: A002
        """Sums over all jobs of a transform since it was registered; NotFound where there is none."""
        return await self._stats.read((await self.find(id)).id)

    async def add_stats(self, id: str, stats: wire.Stats, outcome: Outcome) -> None:  # noqa: A002
        """Add one job. Written together with others a moment later: a crash loses at most the last second's."""
        self._stats.add(id, stats, outcome)

    async def aclose(self) -> None:
        await self._stats.aclose()


def _names_of(name: str, package: bytes) -> tuple[str, str]:
    """Id and digest of a package."""
    return wire.transform_id(name, package), hashlib.sha256(package).hexdigest()
