"""The gateway's database: SQLite beside the cache on one machine, PostgreSQL when several gateways share it.

Calls block, so they run in a few threads and never on the event loop. A write is one transaction and is on the disk
when it returns (SQLite: write-ahead log, `synchronous=FULL`): who was told that a transform is registered finds it
after a power cut.

What can go wrong, and what is done about it:
- SQLite: a transaction that reads first and writes later would fail at once, without waiting its turn, when another
  process wrote in between. So write transactions begin with `BEGIN IMMEDIATE`.
- PostgreSQL: two gateways write at once, and one of them loses (a duplicate, a deadlock, a row that is gone). It is run
  again and finds what the other one wrote; so a function may run more than once, and only its last run counts.
- PostgreSQL restarts, or its machine disappears. A connection is tried before it is used, an address that does not
  answer costs seconds and not minutes, and what fails is an error of ours (503) until the server is back. A gateway
  that starts before its server waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from shardgate_gateway.errors import BadRequest, LocalStorageError
from shardgate_gateway.state.migrate import is_current, migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

log = logging.getLogger(__name__)

DATABASE_FILE = "shardgate.db"
THREADS = 4
BUSY_MILLISECONDS = 15_000
"""How long a SQLite call waits for other processes to finish their writes, and a PostgreSQL statement may take."""
CONNECT_SECONDS = 5
SILENCE_MILLISECONDS = 10_000
"""After so long without an answer from its machine, a PostgreSQL connection is given up."""
START_SECONDS = 60.0
"""How long a gateway that starts waits for its PostgreSQL server."""
RETRY_SECONDS = 0.5
PASSING = ("starting up", "shutting down", "not accepting connections", "too many")
"""What a server says that will take connections later."""
ATTEMPTS = 10
"""Runs of a write that other gateways get in the way of."""
COLLISION_SECONDS = 0.05
"""At most so long between two runs."""
COLLISIONS = ("40001", "40P01")
"""SQLSTATE of what PostgreSQL ends because of another transaction: it could not be serialised, or it was a deadlock."""


def database_url(url: str, state_dir: Path) -> str:
    """The configured URL, or SQLite in the state folder."""
    return url or f"sqlite:///{state_dir / DATABASE_FILE}"


class Database:
    """Runs functions that take a `Session`; `prepare` it first.

    Raises:
        BadRequest: The URL is none that SQLAlchemy and its installed drivers understand.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = _with_driver(make_url(url))
            self._engine = create_engine(self._url, **_options(self._url))
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise BadRequest(f"state.database: {error}", hint="write sqlite:///PATH or postgresql://…") from error
        if not self.shared:
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writer = self._engine.execution_options(immediate=True)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="state")

    @property
    def shared(self) -> bool:
        """Whether gateways on other machines can have this database, too."""
        return self._engine.dialect.name != "sqlite"

    def prepare(self) -> None:
        """Make or upgrade the tables; waits for a server that is just starting.

        Raises:
            LocalStorageError: It can't be opened, or a newer gateway wrote it.
        """
        deadline = time.monotonic() + (START_SECONDS if self.shared else 0)
        while True:
            try:
                if not self._guard(self._engine, is_current):
                    self._guard(self._writer, migrate)
            except LocalStorageError as error:
                if time.monotonic() > deadline or not _may_pass(error.__cause__):
                    raise
                log.warning("waiting for the database: %s", error)
                time.sleep(RETRY_SECONDS)
            else:
                return

    async def read(self, function: Callable[[Session], T]) -> T:
        """Run `function` in a transaction that only reads.

        Raises:
            LocalStorageError: The database failed.
        """
        return await self._run(self._engine, function)

    async def write(self, function: Callable[[Session], T]) -> T:
        """Run `function` in a transaction that is durable when this returns; raises as `read`.

        It is run again when another gateway's transaction got in its way.
        """
        return await self._run(self._writer, function)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    async def _run(self, engine: Engine, function: Callable[[Session], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._guard, engine, function)

    def _guard(self, engine: Engine, function: Callable[[Session], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with Session(engine, expire_on_commit=False) as session, session.begin():
                    return function(session)
            except SQLAlchemyError as error:
                if attempt < ATTEMPTS and _collided(error):
                    time.sleep(random.uniform(0, COLLISION_SECONDS))  # noqa: S311 (so that they don't meet again)
                    continue
                cause = getattr(error, "orig", None) or error
                raise LocalStorageError(
                    f"the database {self._url.render_as_string()} failed: {_first_line(cause)}",
                    hint="see the settings state.database and state.dir",
                ) from error
        raise AssertionError("the last attempt returns or raises")


def _with_driver(url: URL) -> URL:
    """`postgres://` and `postgresql://` mean psycopg, the driver that is installed with the gateway."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgres", "postgresql"} else url


def _options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "postgresql":
        return {}
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": SILENCE_MILLISECONDS,
        "keepalives_idle": SILENCE_MILLISECONDS // 2000,
        "keepalives_interval": 2,
        "application_name": "shardgate",
        "options": f"-c statement_timeout={BUSY_MILLISECONDS} -c lock_timeout={BUSY_MILLISECONDS}",
    }
    return {
        "pool_size": 1,  # of a gateway that has little to ask; there may be many gateways
        "max_overflow": THREADS - 1,
        "pool_pre_ping": True,
        "connect_args": {name: value for name, value in defaults.items() if name not in url.query},
    }


def _collided(error: SQLAlchemyError) -> bool:
    """Whether another transaction is to blame."""
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in COLLISIONS:
        return True
    return isinstance(error, IntegrityError | StaleDataError)


def _may_pass(error: BaseException | None) -> bool:
    """Whether a server that is just starting, or is not found yet, may be the cause: all but what it refuses."""
    refused = "FATAL" in str(error) and not any(word in str(error) for word in PASSING)
    return isinstance(error, OperationalError) and not refused


def _first_line(error: BaseException) -> str:
    """A server that can't be reached is explained in several lines, for each of its addresses."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}").close()
    _use_write_ahead_log(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """SQLite does not wait here, whatever the timeout, where two processes change a new database at the same time."""
    deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0, COLLISION_SECONDS))  # noqa: S311 (so that they don't meet again)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
