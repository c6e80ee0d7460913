"""The folder through which the gateway's processes and a runtime find each other: `<state.dir>/run/<transform id>/`.

    lock          held by the runtime for as long as it lives
    start.lock    held by the gateway process that starts or stops the runtime; only its holder may probe `lock`, since
                  a probe at the wrong moment would make a runtime believe that another one runs
    status.json   what the runtime says of itself
    worker.sock   where it listens
    stopped       is there if somebody stopped it: it stays so until somebody starts it
    package       what it runs
    in-use        of a container: held by each of its requests, and by its host when it ends because there are none

A Unix socket's path has at most 107 bytes and folders may be deeper. So the runtime runs in this folder and listens on
a relative path, and the gateway connects through `/proc/self/fd`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKET = "worker.sock"
PACKAGE = "package"
IN_USE = "in-use"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """Contents of status.json. `since` is seconds since 1970, `listen` an address like "tcp:127.0.0.1:40000"."""

    state: str
    pid: int = 0
    message: str = ""
    hint: str = ""
    since: float = 0.0
    listen: str = ""


class RunDir:
    """Files of one runtime."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def status(self) -> RuntimeStatus | None:
        """What the last runtime said last; it may have died since."""
        try:
            data: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            return None
        return RuntimeStatus(**{name: data[name] for name in RuntimeStatus.__dataclass_fields__ if name in data})

    def write_status(self, state: str, message: str, hint: str = "") -> None:
        """Speak for a runtime that is dead and could not say it itself."""
        status = RuntimeStatus(state, message=message, hint=hint, since=time.time())
        self._replace("status.json", json.dumps(asdict(status)).encode())

    def forget_status(self) -> None:
        (self.path / "status.json").unlink(missing_ok=True)

    @property
    def stopped(self) -> bool:
        return (self.path / STOPPED).exists()

    def set_stopped(self, stopped: bool) -> None:
        if stopped:
            (self.path / STOPPED).touch()
        else:
            (self.path / STOPPED).unlink(missing_ok=True)

    def write_package(self, package: bytes) -> None:
        self._replace(PACKAGE, package)

    def has_package(self) -> bool:
        return (self.path / PACKAGE).exists()

    def remove_package(self) -> None:
        (self.path / PACKAGE).unlink(missing_ok=True)

    @contextlib.contextmanager
    def try_start_lock(self) -> Iterator[bool]:
        """Whether this process may start or stop the runtime now, until the block ends."""
        with open(self.path / "start.lock", "ab") as file:  # noqa: PTH123 (the descriptor is the lock)
            yield _try_lock(file.fileno())

    def runtime_lives(self) -> bool:
        """Whether a runtime holds `lock`. Ask only with the start lock."""
        with open(self.path / "lock", "ab") as file:  # noqa: PTH123
            return not _try_lock(file.fileno())

    def connect(self) -> socket.socket:
        """A new non-blocking connection.

        Raises:
            BlockingIOError: The queue is full just now.
            OSError: Nobody listens.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            sock.setblocking(False)
            sock.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(folder)
        return sock

    def address(self) -> str:
        """Host and port of a container that is ready.

        Raises:
            ConnectionRefusedError: None is.
        """
        status = self.status()
        if status is None or not status.listen:
            raise ConnectionRefusedError("it is not ready any more")
        return status.listen.removeprefix("tcp:")

    def answers(self) -> bool:
        """Whether a runtime that says it is ready still listens: a container may have died a moment before its host."""
        status = self.status()
        if status is None or not status.listen.startswith("tcp:"):
            return True
        host, _, port = self.address().rpartition(":")
        with socket.socket() as probe:  # on this machine a connection is made or refused at once
            return probe.connect_ex((host, int(port))) == 0

    def use(self) -> int:
        """A descriptor that keeps a container from ending for want of use until it is closed.

        Raises:
            BlockingIOError: It is ending.
        """
        descriptor = os.open(self.path / IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.utime(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _replace(self, name: str, data: bytes) -> None:
        part = self.path / f"{name}.{secrets.token_hex(8)}"
        try:
            part.write_bytes(data)
            part.replace(self.path / name)
        finally:
            part.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
