"""A PostgreSQL server of one's own, in a folder that goes away with it.

with start_postgres() as postgres:
    url = postgres.create()    # a new, empty database
    postgres.kill()            # SIGKILL, as a power cut would
    postgres.start()           # again, on the same port and folder

The server refuses to run as root, so root runs it as the user that its package brings along.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from servers_install import require

from servers import START_ATTEMPTS, START_SECONDS, free_port, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "shardgate"
PACKAGE_USER = "postgres"
STOP_SECONDS = 30
SMALL = ("shared_buffers=16MB", "max_connections=60", "fsync=off", "unix_socket_directories=", "log_min_messages=fatal")


class Postgres:
    """One server.

    Args:
        folder: Its data and its log; belongs to the user that runs it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "postgres.log"
        self._programs = require("postgres").resolve().parent
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        as_user = [*_as_package_user(folder), str(self._programs / "initdb")]
        made = [*as_user, "-D", str(self._data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder)

    def start(self) -> None:
        for attempt in range(START_ATTEMPTS):
            self.port = self.port or free_port()
            options = [part for option in SMALL for part in ("-c", option)]
            server = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
            command = [*_as_package_user(self._folder), "setpriv", "--pdeathsig", "KILL", "--", *server]
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, "-c", "listen_addresses=127.0.0.1"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                )
            try:
                wait_for_port(self.port, self._process, self._log)
                break
            except RuntimeError:
                self.stop()
                if attempt + 1 == START_ATTEMPTS:
                    raise
                time.sleep(0.5)  # processes of one that was killed may still be ending
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        """It listens before it has read its log."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """The postmaster at once; what it left running notices and ends."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """At once, also while clients are connected; nothing is lost."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STOP_SECONDS)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create(self) -> str:
        """URL of a new database."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextmanager
def start_postgres() -> Iterator[Postgres]:
    """A running server. Its folder is not pytest's, which only its owner may enter."""
    require("postgres")
    with tempfile.TemporaryDirectory(prefix="shardgate-postgres-", ignore_cleanup_errors=True) as name:
        if os.geteuid() == 0:
            shutil.chown(name, PACKAGE_USER)
        postgres = Postgres(Path(name))
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()


def _as_package_user(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    user = pwd.getpwuid(folder.stat().st_uid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
