"""Which transforms there are.

A package is content-addressed: its id holds the digest of its bytes, so the same code registers as the same transform
and new code can never be taken for old. A name is an alias that moves to whatever was registered last under it; old ids
keep working. The gateway reads the manifest (plain msgpack) and stores the rest unread: it never unpickles.

Rows are in the database, packages in a store. Every row names an object of its own
(`packages/<id>/<installation>.<random>`), which is written before the row and deleted after it. So whatever is killed
at whatever moment, and however registrations and deletions of one id interleave in several gateways, a row always has
its package. A crash in between can leave an object without a row; `start` has such orphans removed, once they are older
than any registration takes. Others may have their packages in the same store, with rows in a database that nobody here
sees: then only objects with the name of our own database are orphans of ours. (Those that an older version left in such
a store have no name, and stay.)

While the database is away, transforms that were asked for before are still known: a name goes on to mean what it meant
last.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from shardgate import wire
from shardgate_gateway.errors import (
    BadRequest,
    GatewayError,
    LocalStorageError,
    NotFound,
    PackageInvalid,
    UpstreamCorrupt,
)
from shardgate_gateway.etl.generation import generation_of
from shardgate_gateway.etl.manifest_check import check_manifest
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.stats import Outcome, StatsBook, TransformStats
from shardgate_gateway.state.tables import AliasRow, InstallationRow, TransformRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.orm import Session

    from shardgate_gateway.settings import EtlSettings
    from shardgate_gateway.state.database import Database
    from shardgate_gateway.stores.base import ObjectMeta, Store

LOOKUP_SECONDS = 1.0
"""How long a process may go on with a name's old meaning after another process moved it."""
LOOKUPS = 4096
PIECE = 1 << 20
PAGE = 200
"""Transforms that are listed at once."""
PREFIX = "packages/"
ORPHAN_SECONDS = 3600.0
SWEEP_SECONDS = 3600.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransformRecord:
    """A registered transform.

    Attributes:
        digest: SHA-256 of its package.
        package_bytes: Size of its package.
        created_by: Whose token registered it first; "" where nobody knows.
        environment: Of its workers, as they said last; see `generation.py`. Empty while nobody knows.
        registration: Differs from one registration to the next after a deletion.
        is_random: A sample of it drew random numbers.
        is_unstable: A sample of it came out differently when it was run again.
        is_new: It was not there before the registration that answers with this.
    """

    id: str
    name: str
    digest: str
    manifest: wire.Manifest
    options: TransformOptions
    package_bytes: int
    created_at: datetime
    created_by: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    registration: str = ""
    is_random: bool = False
    is_unstable: bool = False
    is_new: bool = field(default=False, compare=False)

    @property
    def generation(self) -> str:
        return generation_of(self.environment, self.registration)


class Registry:
    """All transforms of this gateway and its peers.

    Args:
        database: Holds the rows.
        packages: Holds the packages.
        settings: `etl.package_bytes` limits a package.
        check: Raises PackageInvalid or Forbidden for what the runner could never run, or may not.
        is_own_store: Nobody else has packages there.
    """

    def __init__(
        self,
        database: Database,
        packages: Store,
        settings: EtlSettings,
        check: Callable[[wire.Manifest, TransformOptions], None],
        *,
        is_own_store: bool = True,
    ) -> None:
        self._database = database
        self._packages = packages
        self._settings = settings
        self._check = check
        self._lookups: dict[str, tuple[TransformRecord, float]] = {}
        self._stats = StatsBook(database)
        self._sweeper: asyncio.Task[None] | None = None
        self._is_own_store = is_own_store
        self._name = ""

    def start(self) -> None:
        """Begin to look for orphans now and then."""
        self._sweeper = asyncio.create_task(self._sweep_now_and_then())

    async def register(self, package: bytes, options: TransformOptions, *, created_by: str = "") -> TransformRecord:
        """Store a package, point its name at it, and set its options. Idempotent.

        Raises:
            PackageInvalid: Not a package, too large, or of values this gateway can't run.
            Forbidden: The options ask for what the operator does not allow.
            LocalStorageError: The database failed.
            UpstreamError: The package store failed.
        """
        manifest = self._validate(package, options)
        row = TransformRow(
            id=wire.transform_id(manifest.name, package),
            name=manifest.name,
            digest=hashlib.sha256(package).hexdigest(),
            manifest=asdict(manifest),
            options=options.model_dump(mode="json"),
            package_bytes=len(package),
            created_at=datetime.now(UTC),
            created_by=created_by,
        )
        self._lookups.clear()
        known = await self._database.write(lambda session: _update(session, row))
        is_new = known is None
        if known is None:
            row.package_key = f"{PREFIX}{row.id}/{await self._installation()}.{secrets.token_hex(8)}"
            await self._packages.put(row.package_key, _once(package), size=len(package))
            known = await self._database.write(lambda session: _insert(session, row))
            if known.package_key != row.package_key:  # another gateway registered the same package meanwhile
                await self._packages.delete(row.package_key)
                is_new = False
        self._lookups.clear()
        return replace(_record(known), is_new=is_new)

    async def find(self, name_or_id: str) -> TransformRecord:
        """The transform with this id, or the one that this name means now, whichever gateway was told so.

        Raises:
            NotFound: There is none.
            LocalStorageError: The database failed.
        """
        return _record(await self._database.read(lambda session: _find(session, name_or_id)))

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
        row = await self._database.write(lambda session: _learn(session, known, environment))
        learned = _record(row)
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
        place = _place(after) if after else None
        records = await self._database.read(lambda session: [_record(row) for row in _page(session, place, limit + 1)])
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
        key = await self._database.write(lambda session: _delete(session, id))
        self._lookups.clear()
        await self._packages.delete(key)

    async def package(self, id: str) -> bytes:  # noqa: A002
        """The package as it was registered, checked against its digest.

        Raises:
            NotFound: There is no transform with this id.
            UpstreamCorrupt: The store holds other bytes.
        """
        row = await self._database.read(lambda session: _find(session, id))
        stream = await self._packages.get(row.package_key)
        try:
            package = b"".join([bytes(chunk) async for chunk in stream.chunks])
        finally:
            await stream.aclose()
        if hashlib.sha256(package).hexdigest() != row.digest:
            raise UpstreamCorrupt(f"the stored package of {row.id} does not match its digest", hint="register it again")
        return package

    async def stats(self, id: str) -> TransformStats:  # noqa: A002
        """Sums over all jobs of a transform since it was registered; NotFound where there is none."""
        return await self._stats.read((await self.find(id)).id)

    async def add_stats(self, id: str, stats: wire.Stats, outcome: Outcome) -> None:  # noqa: A002
        """Add one job. Written together with others a moment later: a crash loses at most the last second's."""
        self._stats.add(id, stats, outcome)

    async def sweep(self) -> int:
        """Remove packages of ours that no row names and no registration is working on; how many there were.

        Packages are listed before rows are read: a row that comes later names a package that is newer than those.
        """
        until = datetime.now(UTC) - timedelta(seconds=ORPHAN_SECONDS)
        ours = "" if self._is_own_store else f"{await self._installation()}."
        old = [
            meta.key
            async for meta in self._stored()
            if meta.last_modified and meta.last_modified < until and meta.key.rpartition("/")[2].startswith(ours)
        ]
        if not old:
            return 0
        named = select(TransformRow.package_key)
        orphans = set(old).difference(await self._database.read(lambda session: session.scalars(named).all()))
        for key in orphans:
            with contextlib.suppress(NotFound):  # another gateway sweeps, too
                await self._packages.delete(key)
        return len(orphans)

    async def _installation(self) -> str:
        """The name of the database, made when it is wanted first."""
        if not self._name:
            self._name = await self._database.write(_installation)
        return self._name

    async def _stored(self) -> AsyncIterator[ObjectMeta]:
        token = None
        while True:
            page = await self._packages.list(PREFIX, token=token)
            for meta in page.objects:
                yield meta
            token = page.token
            if token is None:
                return

    async def _sweep_now_and_then(self) -> None:
        """Of many gateways that were started together, each at another time."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * SWEEP_SECONDS)  # noqa: S311 (spreads load)
            try:
                if count := await self.sweep():
                    log.info("removed %d packages that belong to no transform", count)
            except GatewayError as error:
                log.warning("can't look for packages that belong to no transform: %s", error)

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._stats.aclose()

    def _validate(self, package: bytes, options: TransformOptions) -> wire.Manifest:
        if len(package) > self._settings.package_bytes:
            raise PackageInvalid(
                f"the package has {len(package)} bytes, and {self._settings.package_bytes} are allowed",
                hint="load large data in the function's setup() instead of capturing it, or raise etl.package_bytes",
            )
        try:
            manifest, function = wire.unpack_package(package)
        except ValueError as error:
            raise PackageInvalid(
                f"the package can't be read: {error}", hint="client and gateway may be of different versions"
            ) from error
        check_manifest(manifest, function)
        self._check(manifest, options)
        return manifest


async def _once(package: bytes) -> AsyncIterator[bytes]:
    """In pieces: a store may copy each."""
    for offset in range(0, len(package), PIECE):
        yield package[offset : offset + PIECE]


def _update(session: Session, row: TransformRow) -> TransformRow | None:
    """Set options and alias of a transform that is there already."""
    known = session.get(TransformRow, row.id)
    if known is not None:
        known.options = row.options
        session.merge(AliasRow(name=row.name, transform_id=row.id, updated_at=datetime.now(UTC)))
    return known


def _insert(session: Session, row: TransformRow) -> TransformRow:
    known = _update(session, row)
    if known is None:
        session.add(row)
        session.flush()
        session.merge(AliasRow(name=row.name, transform_id=row.id, updated_at=datetime.now(UTC)))
    return known or row


def _learn(session: Session, known: TransformRecord, environment: dict[str, str] | None) -> TransformRow:
    """Write what is new. The record may be older than the row, so what nobody told is not written back."""
    row = _find(session, known.id)
    if _registration(row) != known.registration:
        raise NotFound(f"{known.id} was deleted, and registered again", hint="read it again")
    if environment is not None:
        row.environment = environment
    row.is_random = row.is_random or known.is_random
    row.is_unstable = row.is_unstable or known.is_unstable
    return row


def _find(session: Session, name_or_id: str) -> TransformRow:
    row = session.get(TransformRow, name_or_id)
    if row is None:
        alias = session.get(AliasRow, name_or_id)
        row = session.get(TransformRow, alias.transform_id) if alias else None
    if row is None:
        raise NotFound(f"there is no transform {name_or_id!r}", hint="`shardgate etl ls` lists them")
    return row


def _delete(session: Session, transform_id: str) -> str:
    row = session.get(TransformRow, transform_id)
    if row is None:
        raise NotFound(f"there is no transform {transform_id!r}", hint="give its full id, not its name")
    session.execute(delete(TransformRow).where(TransformRow.id == transform_id))
    return row.package_key


def _installation(session: Session) -> str:
    row = session.get(InstallationRow, 1)
    if row is None:
        row = InstallationRow(id=1, name=secrets.token_hex(8))
        session.add(row)
        session.flush()
    return row.name


def _place(token: str) -> tuple[datetime, str]:
    at, _, transform_id = token.partition("~")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), transform_id
    except (ValueError, OverflowError):
        raise BadRequest("the token is not from a list of transforms", hint="list again, without a token") from None


def _page(session: Session, place: tuple[datetime, str] | None, limit: int) -> Sequence[TransformRow]:
    rows = select(TransformRow).order_by(TransformRow.created_at.desc(), TransformRow.id).limit(limit)
    if place is not None:
        at, transform_id = place
        older = TransformRow.created_at < at
        rows = rows.where(older | ((TransformRow.created_at == at) & (TransformRow.id > transform_id)))
    return session.scalars(rows).all()


def _record(row: TransformRow) -> TransformRecord:
    return TransformRecord(
        id=row.id,
        name=row.name,
        digest=row.digest,
        manifest=wire.Manifest.from_map(row.manifest),
        options=TransformOptions.model_validate(row.options),
        package_bytes=row.package_bytes,
        created_at=row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=UTC),
        created_by=row.created_by,
        environment=row.environment,
        registration=_registration(row),
        is_random=row.is_random,
        is_unstable=row.is_unstable,
    )


def _registration(row: TransformRow) -> str:
    return row.package_key.rpartition("/")[2]
