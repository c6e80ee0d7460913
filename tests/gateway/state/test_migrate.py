"""From any older database to the newest schema, and to the same one as a new database has."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from shardgate import wire
from shardgate_gateway.errors import LocalStorageError
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.packages import Packages
from shardgate_gateway.etl.registry import Registry
from shardgate_gateway.state.database import Database, _with_driver, make_url
from shardgate_gateway.state.migrate import MIGRATIONS
from shardgate_gateway.state.tables import REVISION, Base
from shardgate_gateway.stores.local_folder import LocalFolder

if TYPE_CHECKING:
    from pathlib import Path

FIRST_VERSION = """
CREATE TABLE schema (id INTEGER NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (id));
CREATE TABLE transforms (
    id VARCHAR(80) NOT NULL, name VARCHAR(64) NOT NULL, digest VARCHAR(64) NOT NULL, manifest JSON NOT NULL,
    options JSON NOT NULL, package_key VARCHAR(160) NOT NULL, package_bytes BIGINT NOT NULL,
    created_at {timestamp} NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX ix_transforms_name ON transforms (name);
CREATE TABLE aliases (
    name VARCHAR(64) NOT NULL, transform_id VARCHAR(80) NOT NULL, updated_at {timestamp} NOT NULL, PRIMARY KEY (name),
    FOREIGN KEY(transform_id) REFERENCES transforms (id) ON DELETE CASCADE
);
CREATE INDEX ix_aliases_transform_id ON aliases (transform_id);
CREATE TABLE stats (
    transform_id VARCHAR(80) NOT NULL, samples_in BIGINT NOT NULL, samples_out BIGINT NOT NULL,
    samples_skipped BIGINT NOT NULL, bytes_in BIGINT NOT NULL, bytes_out BIGINT NOT NULL,
    fetch_seconds FLOAT NOT NULL, decode_seconds FLOAT NOT NULL, function_seconds FLOAT NOT NULL,
    encode_seconds FLOAT NOT NULL, completed BIGINT NOT NULL, failed BIGINT NOT NULL, abandoned BIGINT NOT NULL,
    released BIGINT NOT NULL, lost BIGINT NOT NULL, PRIMARY KEY (transform_id),
    FOREIGN KEY(transform_id) REFERENCES transforms (id) ON DELETE CASCADE
);
INSERT INTO schema VALUES (1, 1);
INSERT INTO transforms VALUES ('old-0123456789abcdef', 'old', '{digest}', '{{"name": "old", "python": "3.11"}}',
    '{{"cache": "never"}}', 'packages/old', 3, '2026-01-02 03:04:05.000000');
INSERT INTO aliases VALUES ('old', 'old-0123456789abcdef', '2026-01-02 03:04:05.000000');
INSERT INTO stats VALUES ('old-0123456789abcdef', 5, 4, 1, 10, 20, 0.5, 0, 0, 0, 3, 0, 0, 0, 0);
"""
"""What the first version made, in its words."""
DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc"


def make_first_version(url: str) -> None:
    engine = create_engine(_with_driver(make_url(url)))
    timestamp = "DATETIME" if engine.dialect.name == "sqlite" else "TIMESTAMP WITH TIME ZONE"
    with engine.begin() as connection:
        for statement in FIRST_VERSION.format(timestamp=timestamp, digest=DIGEST).strip().split(";\n"):
            connection.execute(text(statement.rstrip(";")).execution_options(no_parameters=True))
    engine.dispose()


def shape(url: str) -> dict[str, object]:
    """Tables with all that matters of their columns, keys and indexes."""
    engine = create_engine(_with_driver(make_url(url)))
    seen = inspect(engine)
    tables = {
        name: (
            sorted(
                (c["name"], str(c["type"]), c["nullable"], "''" in str(c["default"])) for c in seen.get_columns(name)
            ),
            seen.get_pk_constraint(name)["constrained_columns"],
            sorted((key["referred_table"], str(key["options"])) for key in seen.get_foreign_keys(name)),
            sorted((index["name"], tuple(index["column_names"])) for index in seen.get_indexes(name)),
        )
        for name in seen.get_table_names()
    }
    engine.dispose()
    return tables


def prepare(url: str) -> None:
    with closing(Database(url)) as database:
        database.prepare()


@pytest.fixture
def another(url: str, postgres_or_none: object, tmp_path: Path) -> str:
    """A second database of the same kind."""
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/another.db"
    return str(postgres_or_none.create())  # type: ignore[attr-defined]


@pytest.fixture
def postgres_or_none(url: str, request: pytest.FixtureRequest) -> object:
    return None if url.startswith("sqlite") else request.getfixturevalue("postgres")


def test_the_newest_migration_is_the_one_that_the_gateway_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_a_migrated_database_is_like_a_new_one_and_like_the_tables_say(url: str, another: str) -> None:
    prepare(url)
    make_first_version(another)
    prepare(another)
    assert shape(another) == shape(url)
    for each in (url, another):
        engine = create_engine(_with_driver(make_url(each)))
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            found = [
                difference
                for difference in compare_metadata(context, Base.metadata)
                if "alembic_version" not in str(difference)
            ]
        engine.dispose()
        assert found == []


async def test_what_the_first_version_wrote_is_taken_over(url: str, tmp_path: Path) -> None:
    make_first_version(url)
    database = Database(url)
    database.prepare()
    (tmp_path / "packages").mkdir(exist_ok=True)
    (tmp_path / "packages" / "old").write_bytes(b"abc")
    registry = Registry(database, Packages(database, LocalFolder(tmp_path, label="packages")))
    old = await registry.resolve("old")
    assert (old.id, old.options.cache, old.created_by) == ("old-0123456789abcdef", "never", "")
    assert old.manifest == wire.Manifest("old", python="3.11")
    if url.startswith("sqlite"):  # a server's column has the time zone of its session
        assert old.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert await registry.package(old.id) == b"abc"
    assert (await registry.stats("old")).work.samples_in == 5
    await registry.add(wire.unpack_package(package())[0], package(), TransformOptions(), created_by="alice")
    assert [record.created_by for record in await registry.list()] == ["alice", ""]
    await registry.aclose()
    await database.aclose()


def package() -> bytes:
    manifest = wire.Manifest("new", python="{}.{}".format(*sys.version_info[:2]))
    return wire.pack_package(manifest, b"code")


def test_a_gateway_from_before_the_migrations_keeps_away(tmp_path: Path) -> None:
    """It looks at the one row of `schema`, and knows 1."""
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    make_first_version(f"sqlite:///{old}")
    for path in (new, old):
        prepare(f"sqlite:///{path}")
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT id, version FROM schema").fetchall() == [(1, 2)]
        connection.close()


def test_a_schema_of_a_version_that_never_was_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    make_first_version(url)
    connection = sqlite3.connect(tmp_path / "x.db")
    with connection:
        connection.execute("UPDATE schema SET version = 5")
    connection.close()
    with pytest.raises(LocalStorageError, match="version 5"):
        prepare(url)


def test_a_migration_that_does_not_come_to_its_end_has_done_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_first_version(url)
    before = shape(url)
    upgrade = command.upgrade

    def upgrade_and_fail(config: Config, revision: str) -> None:
        upgrade(config, revision)
        raise LocalStorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", upgrade_and_fail)
        with pytest.raises(LocalStorageError, match="the disk is full"):
            prepare(url)
    assert shape(url) == before
    prepare(url)
    assert shape(url) != before


PREPARES = """
import sys
from shardgate_gateway.state.database import Database
sys.stdin.readline()
database = Database(sys.argv[1])
database.prepare()
database.close()
print("alembic" in sys.modules)
"""


def prepare_in(processes: int, url: str) -> list[str]:
    """Start them all, then let them all go."""
    command = [sys.executable, "-c", PREPARES, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes, env=dict(os.environ)) for _ in range(processes)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=100)[0].strip() for process in started]


def test_processes_that_start_together_make_one_database(url: str) -> None:
    assert prepare_in(4, url) == ["False"] * 4  # a new one needs no alembic, whose import is dear


def test_processes_that_start_together_migrate_once(url: str) -> None:
    make_first_version(url)
    assert prepare_in(4, url).count("True") == 1
    assert prepare_in(1, url) == ["False"]
