"""The gateway's database: SQLite beside the cache on one machine, PostgreSQL when several gateways share it.

Calls block, so they run in a few threads and never on the event loop. A write is one transaction and is on the disk
when it returns (SQLite: write-ahead log, `synchronous=FULL`): who was told that a transform is registered finds it
after a power cut. SQLite's write transactions begin with `BEGIN IMMEDIATE`; a transaction that reads first and writes
later would fail at once, without waiting its turn, when another process wrote in between.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from shardgate_gateway.errors import BadRequest, LocalStorageError
from shardgate_gateway.state.tables import SCHEMA_VERSION, Base, Schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

THREADS = 4
BUSY_MILLISECONDS = 15_000
"""How long a SQLite call waits for other processes to finish their writes."""


def database_url(url: str, state_dir: Path) -> str:
    """The configured URL, or SQLite in the state folder."""
    return url or f"sqlite:///{state_dir / 'shardgate.db'}"


class Database:
    """Runs functions that take a `Session`.

    Raises:
        BadRequest: The URL is none that SQLAlchemy and its installed drivers understand.
        LocalStorageError: It can't be opened, or a newer gateway wrote it.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._engine = create_engine(self._url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise BadRequest(f"state.database: {error}", hint="write sqlite:///PATH or postgresql://…") from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writer = self._engine.execution_options(immediate=True)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="state")
        self._guard(self._writer, _create_or_check)

    async def read(self, function: Callable[[Session], T]) -> T:
        """Run `function` in a transaction that only reads.

        Raises:
            LocalStorageError: The database failed.
        """
        return await self._run(self._engine, function)

    async def write(self, function: Callable[[Session], T]) -> T:
        """Run `function` in a transaction that is durable when this returns; raises as `read`."""
        return await self._run(self._writer, function)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()

    async def _run(self, engine: Engine, function: Callable[[Session], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._guard, engine, function)

    def _guard(self, engine: Engine, function: Callable[[Session], T]) -> T:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                return function(session)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise LocalStorageError(
                f"the database {self._url.render_as_string(hide_password=True)} failed: {cause}",
                hint="see the settings state.database and state.dir",
            ) from error


def _create_or_check(session: Session) -> None:
    if not inspect(session.connection()).has_table(Schema.__tablename__):
        Base.metadata.create_all(session.connection())
        session.add(Schema(id=1, version=SCHEMA_VERSION))
        session.flush()
    version = session.scalar(select(Schema.version))
    if version != SCHEMA_VERSION:
        raise LocalStorageError(
            f"the database has schema {version}, and this gateway knows schema {SCHEMA_VERSION}",
            hint="run the version of shardgate that wrote it, or a newer one",
        )


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    for pragma in (f"busy_timeout={BUSY_MILLISECONDS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
