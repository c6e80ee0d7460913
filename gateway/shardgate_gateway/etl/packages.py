"""Packages of transforms in their store.

Every row of a transform names an object of its own (`packages/<id>/<installation>.<random>`), which is written before
the row and deleted after it. So whatever is killed at whatever moment, and however registrations and deletions of one
id interleave in several gateways, a row always has its package. A crash in between can leave an object without a row;
a job removes such orphans, once they are older than any registration takes. Others may have their packages in the
same store, with rows in a database that nobody here sees: then only objects with the name of our own database are
orphans of ours. (Those that an older version left in such a store have no name, and stay.)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from shardgate_gateway.errors import NotFound, UpstreamCorrupt
from shardgate_gateway.etl.transform_rows import installation
from shardgate_gateway.jobs.periodic import Periodic
from shardgate_gateway.state.tables import TransformRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.state.database import Database
    from shardgate_gateway.stores.base import ObjectMeta, Store

PIECE = 1 << 20
PREFIX = "packages/"
ORPHAN_SECONDS = 3600.0
SWEEP_SECONDS = 3600.0
log = logging.getLogger(__name__)


class Packages:
    """All packages of one database.

    Args:
        database: Holds the rows that name them.
        store: Holds them.
        is_own_store: Nobody else has packages there.
    """

    def __init__(self, database: Database, store: Store, *, is_own_store: bool = True) -> None:
        self._database = database
        self._store = store
        self._is_own_store = is_own_store
        self._installation_name = ""

    def jobs(self) -> tuple[Periodic, ...]:
        """What is to be done in the background: looking for orphans."""
        return (Periodic("sweep packages", SWEEP_SECONDS, self.sweep),)

    async def put(self, transform_id: str, package: bytes) -> str:
        """Store a package under a key of its own, which is returned. Raises as `Store.put`."""
        key = f"{PREFIX}{transform_id}/{await self._installation()}.{secrets.token_hex(8)}"
        await self._store.put(key, _pieces(package), size=len(package))
        return key

    async def get(self, transform_id: str, key: str, digest: str) -> bytes:
        """A package, checked against its digest.

        Raises:
            UpstreamCorrupt: The store holds other bytes.
        """
        stream = await self._store.get(key)
        try:
            package = b"".join([bytes(chunk) async for chunk in stream.chunks])
        finally:
            await stream.aclose()
        if hashlib.sha256(package).hexdigest() != digest:
            raise UpstreamCorrupt(
                f"the stored package of {transform_id} does not match its digest", hint="register it again"
            )
        return package

    async def delete(self, key: str) -> None:
        await self._store.delete(key)

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
                await self._store.delete(key)
        if orphans:
            log.info("removed %d packages that belong to no transform", len(orphans))
        return len(orphans)

    async def _installation(self) -> str:
        """The name of the database, made when it is wanted first."""
        if not self._installation_name:
            self._installation_name = await self._database.write(installation)
        return self._installation_name

    async def _stored(self) -> AsyncIterator[ObjectMeta]:
        token = None
        while True:
            page = await self._store.list(PREFIX, token=token)
            for meta in page.objects:
                yield meta
            token = page.token
            if token is None:
                return


async def _pieces(package: bytes) -> AsyncIterator[bytes]:
    """A store may copy each."""
    for offset in range(0, len(package), PIECE):
        yield package[offset : offset + PIECE]
