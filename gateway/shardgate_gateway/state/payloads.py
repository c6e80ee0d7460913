"""A store in the database: packages and environments of gateways that share a database and no folder.

**Problem.** Every gateway must have every package, and an environment has gigabytes, which no process may hold at once.

**Idea.** A body is cut into rows of `CHUNK_BYTES`, each written in a transaction of its own under a version that nobody
knows yet. The last transaction makes that version the one under the key, and removes the rows of the one before.
Readers take row by row of the version they began with.

**What can go wrong.** A writer dies: its rows belong to no key, and the next PUT removes those on which nobody has
worked for an hour. Nobody knows whether the last transaction was committed, because its answer was lost or its writer
was cancelled: the rows stay, and are such abandoned ones if it was not. A key whose rows are gone all the same does not
exist for readers, so that the next PUT heals it. A version is replaced under a reader: its rows are gone, and the
reader gets GenerationChanged, never bytes of two versions. Two write the same key: the last one to finish wins, whole.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select

from shardgate_gateway.errors import (
    BadRequest,
    GenerationChanged,
    LocalStorageError,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
)
from shardgate_gateway.state.tables import ChunkRow, PayloadRow
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store
from shardgate_gateway.stores.keys import check_key
from shardgate_gateway.stores.listing import fold

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine

    from sqlalchemy.orm import Session

    from shardgate_gateway.state.database import Database

CHUNK_BYTES = 1 << 20
ABANDONED_SECONDS = 3600.0


class Payloads(Store):
    """Objects in two tables. `label` is `provider://name`, for messages; the database is closed by who opened it."""

    def __init__(self, database: Database, *, label: str) -> None:
        self._database = database
        self._label = label

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        name = f"{self._label}/{key}"
        check_key(key)
        if end is not None and end <= start:
            raise BadRequest(f"the range {start}-{end} of {name} is empty")
        row = await self._find(key)
        if if_match not in {None, row.version}:
            raise PreconditionFailed(f"{name} has the etag {row.version} now, not {if_match}")
        if start >= row.size and (start or end is not None):
            raise RangeNotSatisfiable(f"{name} has no byte {start}", size=row.size)
        end = row.size if end is None else min(end, row.size)
        return ObjectStream(_meta(row), start, end, self._chunks(row, start, end))

    async def head(self, key: str) -> ObjectMeta:
        check_key(key)
        return _meta(await self._find(key))

    async def put(
        self,
        key: str,
        body: AsyncIterator[bytes],
        *,
        size: int | None = None,  # noqa: ARG002
        content_type: str | None = None,
    ) -> ObjectMeta:
        check_key(key)
        row = PayloadRow(key=key, version=secrets.token_hex(16), size=0, content_type=content_type)
        try:
            async for data in _rows(body):
                await self._write_chunk(row.version, row.size // CHUNK_BYTES, data)
                row.size += len(data)
        except BaseException:
            with suppress(LocalStorageError):  # what can't be removed now is abandoned
                await self._database.write(lambda session: _remove_chunks(session, row.version))
            raise
        row.stored_at = datetime.now(UTC)
        # From here on nothing is removed: whoever leaves, or gets no answer, can't know whether it was committed.
        await _to_its_end(self._database.write(lambda session: _publish(session, row)))
        return _meta(row)

    async def delete(self, key: str) -> None:
        check_key(key)
        if not await self._database.write(lambda session: _remove(session, key)):
            raise NotFound(f"{self._label}/{key} does not exist")

    async def list(
        self, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        found: list[ObjectMeta | str] = []
        async with aclosing(self._entries(prefix, token or "", limit + 1, delimiter=delimiter)) as entries:
            async for entry in entries:
                found.append(entry)
                if len(found) > limit:
                    break
        return ListPage(
            objects=tuple(entry for entry in found[:limit] if isinstance(entry, ObjectMeta)),
            prefixes=tuple(entry for entry in found[:limit] if isinstance(entry, str)),
            token=_place(found[limit - 1]) if len(found) > limit else None,
        )

    async def _entries(
        self, prefix: str, after: str, page: int, *, delimiter: bool
    ) -> AsyncGenerator[ObjectMeta | str]:
        """Objects, and folders that are folded, in order."""
        while rows := await self._database.read(partial(_behind, prefix=prefix, after=after, limit=page)):
            for row in rows:
                entry = (delimiter and fold(row.key, prefix)) or _meta(row)
                after = _place(entry)
                yield entry
                if isinstance(entry, str):
                    break  # and jump over what else is in it

    async def _find(self, key: str) -> PayloadRow:
        row = await self._database.read(lambda session: _whole(session, key))
        if row is None:
            raise NotFound(f"{self._label}/{key} does not exist")
        return row

    async def _write_chunk(self, version: str, number: int, data: bytes) -> None:
        await self._database.write(
            lambda session: session.add(
                ChunkRow(version=version, number=number, data=data, written_at=datetime.now(UTC))
            )
        )

    async def _chunks(self, row: PayloadRow, start: int, end: int) -> AsyncGenerator[bytes]:
        while start < end:
            number, offset = divmod(start, CHUNK_BYTES)
            data = await self._database.read(partial(_chunk, version=row.version, number=number))
            part = data[offset : offset + end - start]
            if not part:
                raise GenerationChanged(
                    f"{self._label}/{row.key} was replaced or deleted while it was being read", hint="read it again"
                )
            start += len(part)
            yield part


async def _to_its_end(write: Coroutine[Any, Any, None]) -> None:
    """Await a write, and only then be cancelled."""
    task = asyncio.ensure_future(write)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # whoever asked has left
        raise


def _place(entry: ObjectMeta | str) -> str:
    return entry if isinstance(entry, str) else entry.key


async def _rows(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `CHUNK_BYTES`, the last one shorter."""
    gathered = bytearray()
    async for chunk in body:
        gathered += chunk
        while len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered[:CHUNK_BYTES])
            del gathered[:CHUNK_BYTES]
    if gathered:
        yield bytes(gathered)


def _chunk(session: Session, version: str, number: int) -> bytes:
    """Empty where there is none."""
    wanted = select(ChunkRow.data).where(ChunkRow.version == version, ChunkRow.number == number)
    return session.scalar(wanted) or b""


def _whole(session: Session, key: str) -> PayloadRow | None:
    """None also for one without its bytes, so that it is stored again instead of being missed for good."""
    row = session.get(PayloadRow, key)
    return row if row is None or _count(session, row.version) == _chunks_of(row.size) else None


def _count(session: Session, version: str) -> int:
    return session.scalar(select(func.count()).select_from(ChunkRow).where(ChunkRow.version == version)) or 0


def _chunks_of(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def _publish(session: Session, row: PayloadRow) -> None:
    """Replace what is there; of two that find nothing there, one fails to insert, and is run again."""
    if _count(session, row.version) != _chunks_of(row.size):
        raise LocalStorageError(f"parts of {row.key} were removed before it was whole", hint="store it again")
    known = session.get(PayloadRow, row.key, with_for_update=True)
    if known is None:
        session.add(row)
    else:
        _remove_chunks(session, known.version)
        known.version, known.size, known.content_type = row.version, row.size, row.content_type
        known.stored_at = row.stored_at
    session.flush()
    _remove_abandoned(session)


def _remove(session: Session, key: str) -> bool:
    known = session.get(PayloadRow, key, with_for_update=True)
    if known is None:
        return False
    _remove_chunks(session, known.version)
    session.delete(known)
    return True


def _remove_chunks(session: Session, version: str) -> None:
    session.execute(delete(ChunkRow).where(ChunkRow.version == version))


def _remove_abandoned(session: Session) -> None:
    """Rows of writers that died."""
    newest = func.max(ChunkRow.written_at)
    until = datetime.now(UTC) - timedelta(seconds=ABANDONED_SECONDS)
    unnamed = ChunkRow.version.not_in(select(PayloadRow.version))
    abandoned = select(ChunkRow.version).where(unnamed).group_by(ChunkRow.version).having(newest < until)
    for version in session.scalars(abandoned).all():
        _remove_chunks(session, version)


def _behind(session: Session, prefix: str, after: str, limit: int) -> list[PayloadRow]:
    """Keys with this prefix that sort behind a key, or behind all keys of a folder."""
    behind = PayloadRow.key >= after[:-1] + chr(ord("/") + 1) if after.endswith("/") else PayloadRow.key > after
    matches = func.substr(PayloadRow.key, 1, len(prefix)) == prefix
    rows = select(PayloadRow).where(PayloadRow.key >= prefix, matches, behind).order_by(PayloadRow.key).limit(limit)
    return list(session.scalars(rows))


def _meta(row: PayloadRow) -> ObjectMeta:
    stored = row.stored_at if row.stored_at.tzinfo else row.stored_at.replace(tzinfo=UTC)
    return ObjectMeta(row.key, row.size, row.version, last_modified=stored, content_type=row.content_type)
