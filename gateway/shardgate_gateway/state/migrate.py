"""Bring a database to the schema that this gateway knows, once, however many gateways start at the same time.

At nearly every start there is nothing to do, and two queries say so. A new database is made from `tables.py` at once.
Only an older one is taken through `migrations/` by alembic, whose import takes a third of a second. All of it is done
in one transaction and under a lock (PostgreSQL: an advisory lock; SQLite: the write transaction itself). So who comes
second finds it done, and a process that is killed in between has done nothing.

There is no way back: a database that a newer gateway wrote is refused rather than guessed at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, select, text

from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.state.tables import REVISION, SCHEMA_VERSION, Base, Revision, Schema

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

FIRST = "0001"
"""What the version before the migrations made."""
MIGRATIONS = Path(__file__).with_name("migrations")
LOCK = 0x5A6D_6174
"""Any number, the same for all gateways."""


def is_current(session: Session) -> bool:
    """Whether there is nothing to do.

    Raises:
        LocalStorageError: A newer gateway wrote it.
    """
    return _revision(session) == REVISION


def migrate(session: Session) -> None:
    """Make or upgrade the tables; in a transaction that writes. Raises as `is_current`."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        session.execute(text("SET LOCAL statement_timeout = 0"))  # a large table may take its time
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    found = _revision(session)
    if found is None:
        Base.metadata.create_all(connection)
        session.add_all([Revision(version_num=REVISION), Schema(id=1, version=SCHEMA_VERSION)])
    elif found < REVISION:
        _upgrade(session)


def _revision(session: Session) -> str | None:
    """The migration that the database is at, or None where there is no table yet."""
    tables = set(inspect(session.connection()).get_table_names())
    found = session.scalar(select(Revision.version_num)) if Revision.__tablename__ in tables else None
    if found is None and Schema.__tablename__ in tables:
        version = session.scalar(select(Schema.version))
        found = FIRST if version == 1 else f"of version {version}"
    if found is not None and found > REVISION:
        raise LocalStorageError(
            f"the database has schema {found}, and this gateway knows schema {REVISION}",
            hint="run the version of shardgate that wrote it, or a newer one",
        )
    return found


def _upgrade(session: Session) -> None:
    from alembic import command  # noqa: PLC0415 (see above)
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": session.connection()})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if Revision.__tablename__ not in inspect(session.connection()).get_table_names():
        command.stamp(config, FIRST)
    command.upgrade(config, "head")
