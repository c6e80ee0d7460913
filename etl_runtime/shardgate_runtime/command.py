"""A container in embedded mode: its command as a process of this machine, `python -m shardgate_runtime.command`.

Where there are no images, what a transform in another language comes down to is a program that listens on HTTP. To the
gateway this host is a runtime like any other: the same command line, run folder, status and log. It picks a port,
starts the program, and says `ready` when the program's health path answers 2xx. When the program ends so does the host,
and whoever needs the transform next starts both again.

**Idle.** Requests go straight from the gateway to the program, so the host can't count them. Each of them holds a
shared lock on the file `in-use`, from whichever gateway process, and the kernel frees it with its holder; taking it
also touches the file. Nobody holds it and it was not touched for `--idle-seconds`: the host takes the lock for itself,
so that nobody comes in the last moment, and ends.

**The port.** A program can't be handed a socket, only a number. Between finding a free one and listening on it somebody
else may take it; then the program ends, and is tried with another one.
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_runtime.failures import StartupError, describe
from shardgate_runtime.limits import die_with_parent
from shardgate_runtime.options import Options, parse_options
from shardgate_runtime.orphans import adopt_orphans, kill_all_orphans
from shardgate_runtime.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
IN_USE = "in-use"
POLL_SECONDS = 0.02
"""Between questions for the health of a program that starts."""
TICK_SECONDS = 0.2
"""Between looks at one that runs."""
HEALTH_TIMEOUT = 2.0
"""For one answer of the health path."""
STOP_SECONDS = 4.0
"""Between asking the program to end and killing it."""
PORT_TRIES = 3


class CommandHost:
    """Starts the program, watches it, and ends with it."""

    def __init__(self, options: Options, run_dir: RunDir, container: wire.Container) -> None:
        self._options = options
        self._run_dir = run_dir
        self._container = container
        self._stopping = False
        self._in_use = os.open(options.run_dir / IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def run(self) -> int:
        """Until the program ends, or is not wanted any more; returns an exit status.

        Raises:
            StartupError: It can't be started.
        """
        signal.signal(signal.SIGTERM, self._stop)
        os.utime(self._in_use)
        for tries_left in reversed(range(PORT_TRIES)):
            port = _free_port()
            program = self._spawn(port)
            try:
                if self._comes_up(program, port):
                    self._run_dir.write_status("ready", listen=f"tcp:{HOST}:{port}")
                    self._watch(program)
            finally:
                _end(program)
                kill_all_orphans()
            status = program.returncode
            if self._stopping or status == 0 or not tries_left or _is_free(port):
                break
        if self._stopping:
            return 0
        how = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        log.error("%s ended: %s", program.args[0], how)  # type: ignore[index] # a list, as it was given
        return status if status > 0 else 1

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        command = self._container.program(port)
        log.info("starting %s", " ".join(command))
        parent = os.getpid()
        try:
            return subprocess.Popen(
                command,
                env=os.environ | self._container.env | {"PORT": str(port)},
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509 (no threads here)
            )
        except OSError as error:
            raise StartupError(
                f"{command[0]} can't be run: {error.strerror}", "give the whole path, or one that $PATH finds"
            ) from error

    def _comes_up(self, program: subprocess.Popen[bytes], port: int) -> bool:
        said = ""
        while not self._stopping and program.poll() is None:
            problem = self._unhealthy(port)
            if not problem:
                return True
            if problem != said:
                said = problem
                log.info("waiting: GET %s of port %d: %s", self._container.health, port, problem)
            time.sleep(POLL_SECONDS)
        return False

    def _unhealthy(self, port: int) -> str:
        """What is wrong with its health; nothing if it is well."""
        connection = http.client.HTTPConnection(HOST, port, timeout=HEALTH_TIMEOUT)
        try:
            connection.request("GET", self._container.health)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return describe(error)
        finally:
            connection.close()
        return "" if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES else f"status {status}"

    def _watch(self, program: subprocess.Popen[bytes]) -> None:
        ended = os.pidfd_open(program.pid)
        while not self._stopping and not select.select([ended], [], [], TICK_SECONDS)[0]:
            if self._is_idle():
                log.info("idle for %g s", self._options.idle_limit)
                self._stopping = True
        os.close(ended)

    def _is_idle(self) -> bool:
        limit = self._options.idle_limit
        if not limit or time.time() - os.fstat(self._in_use).st_mtime < limit:
            return False
        try:
            fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.utime(self._in_use)
            return False
        return time.time() - os.fstat(self._in_use).st_mtime >= limit or self._unlock()

    def _unlock(self) -> bool:
        """Somebody came and went in the last moment."""
        fcntl.flock(self._in_use, fcntl.LOCK_UN)
        return False


def main(arguments: list[str]) -> int:
    """As the gateway starts it; the options are those of any runtime."""
    options = parse_options(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(message)s"
    )
    if not options.stay:
        die_with_parent(options.parent or os.getppid(), signal.SIGTERM)
    adopt_orphans()
    run_dir = RunDir(options.run_dir)
    run_dir.write_status("starting")
    try:
        code = CommandHost(options, run_dir, _container(options.package, options.transform_id)).run()
    except StartupError as error:
        print(error.message, error.hint, file=sys.stderr)
        run_dir.write_status("failed", error.message, error.hint)
        return 1
    finally:
        kill_all_orphans()
    if code == 0:
        run_dir.write_status("stopped")
    return code


def _container(path: Path, transform_id: str) -> wire.Container:
    try:
        package = path.read_bytes()
        manifest, _ = wire.unpack_package(package)
    except (OSError, ValueError) as error:
        raise StartupError(f"the package can't be read: {error}") from error
    if wire.transform_id(manifest.name, package) != transform_id or manifest.container is None:
        raise StartupError(f"the package is not that of {transform_id}", "register the transform again")
    return manifest.container


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def _end(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is None:
        program.terminate()
        try:
            program.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
