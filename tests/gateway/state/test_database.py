"""The database: durable, shared by processes, and honest about what it can't read."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text, update

from servers import free_port
from shardgate_gateway.errors import BadRequest, LocalStorageError
from shardgate_gateway.state import database as database_module
from shardgate_gateway.state.database import Database, database_url
from shardgate_gateway.state.tables import REVISION, SCHEMA_VERSION, Revision, Schema

if TYPE_CHECKING:
    from pathlib import Path

    from servers_postgres import Postgres
    from sqlalchemy.orm import Session


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A SQLite database."""
    return database_url("", tmp_path)


def opened(url: str) -> Database:
    database = Database(url)
    try:
        database.prepare()
    except BaseException:
        database.close()
        raise
    return database


async def test_a_database_is_made_where_none_is_and_found_again(url: str) -> None:
    for _ in range(2):
        database = opened(url)
        assert await database.read(lambda session: session.scalar(select(Revision.version_num))) == REVISION
        await database.aclose()


async def test_writes_are_flushed_to_the_disk_and_readers_do_not_wait(file: str) -> None:
    database = opened(file)
    pragmas = {}

    def ask(session: Session) -> None:
        for name in ("journal_mode", "synchronous", "foreign_keys"):
            pragmas[name] = session.scalar(text(f"PRAGMA {name}"))

    await database.read(ask)
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await database.aclose()


async def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    database = opened(url)
    await database.write(lambda session: session.execute(update(Revision).values(version_num="9999")))
    with pytest.raises(LocalStorageError, match="schema 9999") as raised:
        database.prepare()
    assert "version of shardgate that wrote it" in raised.value.hint
    assert await database.read(lambda session: session.scalar(select(Revision.version_num))) == "9999"
    await database.aclose()


async def test_read_then_write_transactions_of_several_connections_wait_for_each_other(url: str) -> None:
    first, second = opened(url), opened(url)

    def increment(session: Session) -> None:
        row = session.get(Schema, 1, with_for_update=True)
        assert row is not None
        row.version += 1

    await asyncio.gather(*(database.write(increment) for database in (first, second) * 20))
    assert await first.read(lambda session: session.scalar(select(Schema.version))) == SCHEMA_VERSION + 40
    await first.aclose()
    await second.aclose()


async def test_what_failed_is_not_written(url: str) -> None:
    database = opened(url)

    def fail(session: Session) -> None:
        session.execute(update(Schema).values(version=99))
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        await database.write(fail)
    assert await database.read(lambda session: session.scalar(select(Schema.version))) == SCHEMA_VERSION
    await database.aclose()


def test_a_file_that_is_no_database_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "shardgate.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(LocalStorageError, match="not a database"):
        opened(database_url("", tmp_path))


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(LocalStorageError, match="unable to open"):
        opened(database_url("", tmp_path / "missing"))


@pytest.mark.parametrize("url", ["nonsense", "nosuchdatabase://host/db", "sqlite+nosuchdriver:///x"])
def test_a_url_that_is_none_is_an_error_that_names_the_setting(url: str) -> None:
    with pytest.raises(BadRequest, match=r"state\.database"):
        Database(url)


def test_a_password_is_not_in_the_message(tmp_path: Path) -> None:
    with pytest.raises((LocalStorageError, BadRequest)) as raised:
        opened(f"sqlite://user:hunter2@/{tmp_path}/missing/x.db")
    assert "hunter2" not in str(raised.value) + raised.value.hint


def test_the_password_of_a_server_is_not_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "START_SECONDS", 0.0)
    with pytest.raises(LocalStorageError, match=r"user:\*\*\*@127\.0\.0\.1") as raised:
        opened(f"postgresql://user:hunter2@127.0.0.1:{free_port()}/db")
    assert "hunter2" not in str(raised.value) + raised.value.hint
    assert "refused" in raised.value.message


WRITES = """
import asyncio, sys
from sqlalchemy import update
from shardgate_gateway.state.database import Database
from shardgate_gateway.state.tables import Schema

async def main():
    database = Database(sys.argv[1])
    database.prepare()
    for number in range(1, 10**9):
        await database.write(lambda session: session.execute(update(Schema).values(id=number)))
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_written_survives_a_kill(url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITES, url], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    promised = [20, *map(int, process.communicate()[0].split())][-1]
    database = opened(url)
    assert (await database.read(lambda session: session.scalar(select(Schema.id))) or 0) >= promised
    await database.aclose()


@pytest.mark.servers
async def test_a_server_that_restarts_costs_clear_errors_and_then_nothing(own_postgres: Postgres) -> None:
    database = opened(own_postgres.create())
    version = select(Revision.version_num)
    await asyncio.gather(*(database.read(lambda session: session.scalar(version)) for _ in range(4)))
    own_postgres.kill()
    for _ in range(2):
        with pytest.raises(LocalStorageError, match="database postgresql") as raised:
            await database.read(lambda session: session.scalar(version))
        assert "\n" not in raised.value.message
    own_postgres.start()
    await asyncio.to_thread(database.prepare)
    answers = [await database.write(lambda session: session.scalar(version)) for _ in range(8)]
    assert answers == [REVISION] * 8
    await database.aclose()


@pytest.mark.servers
async def test_a_gateway_that_starts_before_its_server_waits_for_it(own_postgres: Postgres) -> None:
    url = own_postgres.create()
    own_postgres.stop()
    database = Database(url)
    preparing = threading.Thread(target=database.prepare)
    preparing.start()
    await asyncio.sleep(0.1)
    own_postgres.start()
    await asyncio.to_thread(preparing.join)
    assert await database.read(lambda session: session.scalar(select(Revision.version_num))) == REVISION
    await database.aclose()


@pytest.mark.servers
def test_what_a_server_refuses_is_told_at_once(postgres: Postgres) -> None:
    with pytest.raises(LocalStorageError, match='database "nosuchdatabase" does not exist'):
        opened(postgres.url("nosuchdatabase"))


async def test_a_write_that_another_one_gets_in_the_way_of_is_run_again(url: str) -> None:
    """Both find nothing and insert the same row; the loser runs again and finds it."""
    first, second = opened(url), opened(url)

    def insert(session: Session) -> str:
        if session.get(Schema, 7) is None:
            session.add(Schema(id=7, version=1))
            return "inserted"
        return "found"

    outcomes = await asyncio.gather(*(database.write(insert) for database in (first, second) * 8))
    assert sorted(outcomes) == ["found"] * 15 + ["inserted"]
    await first.aclose()
    await second.aclose()


class Locked:
    """A connection to a new database that two other processes are changing just now."""

    def __init__(self) -> None:
        self.real = sqlite3.connect(":memory:")
        self.locked = 2

    def execute(self, statement: str) -> sqlite3.Cursor:
        if "journal_mode" in statement and self.locked:
            self.locked -= 1
            raise sqlite3.OperationalError("database is locked")
        return self.real.execute(statement)


def test_processes_that_make_one_database_at_the_same_time_wait_for_each_other() -> None:
    """SQLite's own timeout does not cover this change."""
    connection: Any = Locked()
    database_module._configure_sqlite(connection, None)
    assert not connection.locked
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.real.close()
