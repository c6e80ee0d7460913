"""The database: durable, shared by processes, and honest about what it can't read."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text, update

from shardgate_gateway.errors import BadRequest, LocalStorageError
from shardgate_gateway.state.database import Database, database_url
from shardgate_gateway.state.tables import SCHEMA_VERSION, Schema

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session


@pytest.fixture
def url(tmp_path: Path) -> str:
    return database_url("", tmp_path)


async def test_a_database_is_made_where_none_is_and_found_again(url: str) -> None:
    for _ in range(2):
        database = Database(url)
        assert await database.read(lambda session: session.scalar(select(Schema.version))) == SCHEMA_VERSION
        await database.aclose()


async def test_writes_are_flushed_to_the_disk_and_readers_do_not_wait(url: str) -> None:
    database = Database(url)
    pragmas = {}

    def ask(session: Session) -> None:
        for name in ("journal_mode", "synchronous", "foreign_keys"):
            pragmas[name] = session.scalar(text(f"PRAGMA {name}"))

    await database.read(ask)
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await database.aclose()


async def test_a_newer_database_is_refused_and_left_alone(url: str, tmp_path: Path) -> None:
    database = Database(url)
    await database.write(lambda session: session.execute(update(Schema).values(version=SCHEMA_VERSION + 1)))
    await database.aclose()
    with pytest.raises(LocalStorageError, match=f"schema {SCHEMA_VERSION + 1}") as raised:
        Database(url)
    assert "version of shardgate that wrote it" in raised.value.hint
    connection = sqlite3.connect(tmp_path / "shardgate.db")
    assert connection.execute("SELECT version FROM schema").fetchone() == (SCHEMA_VERSION + 1,)
    connection.close()


async def test_read_then_write_transactions_of_several_connections_wait_for_each_other(url: str) -> None:
    first, second = Database(url), Database(url)

    def increment(session: Session) -> None:
        row = session.get(Schema, 1)
        assert row is not None
        row.version += 1

    await asyncio.gather(*(database.write(increment) for database in (first, second) * 20))
    assert await first.read(lambda session: session.scalar(select(Schema.version))) == SCHEMA_VERSION + 40
    await first.aclose()
    await second.aclose()


async def test_what_failed_is_not_written(url: str) -> None:
    database = Database(url)

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
        Database(database_url("", tmp_path))


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(LocalStorageError, match="unable to open"):
        Database(database_url("", tmp_path / "missing"))


@pytest.mark.parametrize("url", ["nonsense", "nosuchdatabase://host/db", "sqlite+nosuchdriver:///x"])
def test_a_url_that_is_none_is_an_error_that_names_the_setting(url: str) -> None:
    with pytest.raises(BadRequest, match=r"state\.database"):
        Database(url)


def test_a_password_is_not_in_the_message(tmp_path: Path) -> None:
    with pytest.raises((LocalStorageError, BadRequest)) as raised:
        Database(f"sqlite://user:hunter2@/{tmp_path}/missing/x.db")
    assert "hunter2" not in str(raised.value) + raised.value.hint


OPENS = """
import sys
from shardgate_gateway.state.database import Database
Database(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_processes_that_start_together_make_one_database(url: str) -> None:
    command = [sys.executable, "-c", OPENS, url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=60)[0] for process in processes]
    assert answers == ["open\n"] * 4


WRITES = """
import asyncio, sys
from sqlalchemy import update
from shardgate_gateway.state.database import Database
from shardgate_gateway.state.tables import Schema

async def main():
    database = Database(sys.argv[1])
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
    database = Database(url)
    assert (await database.read(lambda session: session.scalar(select(Schema.id))) or 0) >= promised
    await database.aclose()
