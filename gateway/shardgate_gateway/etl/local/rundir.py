"""The folder through which the gateway's processes and a runtime find each other: `<state.dir>/run/<transform id>/`.

    lock          held by the runtime for as long as it lives
    start.lock    held by the gateway process that starts, stops or removes the runtime; only its holder may probe
                  `lock`, since a probe at the wrong moment would make a runtime believe that another one runs
    status.json   what the runtime says of itself
    worker.sock   where it listens
    stopped       is there if somebody stopped it: it stays so until somebody starts it
    superseded    is there if its name means a newer version: the runtime ends sooner when nobody asks for it
    package       what it runs
    in-use        of a container: held by each of its requests, and by its host when it ends because there are none
    work/         the working directory of user code

User code has a working directory of its own and still runs as our user: it can write anything here, by accident or on
purpose. So nothing here is believed: what is read is a file of bounded size whose contents are checked, a lock or a
status that became a folder is replaced, and the package is compared with its digest before each start.

A Unix socket's path has at most 107 bytes and folders may be deeper. So both ends go through `/proc/self/fd`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import secrets
import shutil
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from shardgate_gateway.etl.local.status import MAX_STATUS_BYTES, RuntimeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET = "worker.sock"
PACKAGE = "package"
STATUS = "status.json"
IN_USE = "in-use"
STOPPED = "stopped"
SUPERSEDED = "superseded"
START_LOCK = "start.lock"
WORK = "work"
CHUNK = 1 << 20


class RunDir:
    """Files of one runtime."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def work(self) -> Path:
        """Where user code runs."""
        return self.path / WORK

    def create(self) -> None:
        for folder in (self.path.parent, self.path, self.work):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)

    def remove(self) -> None:
        """Delete everything. Call it with the start lock, which is deleted last: whoever waits for it looks again."""
        if not self.path.exists():
            return
        for entry in self.path.iterdir():
            if entry.name != START_LOCK:
                _remove(entry)
        (self.path / START_LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody is about to start it again, and has a new lock in it
            self.path.rmdir()

    def status(self) -> RuntimeStatus | None:
        """What the last runtime said last; it may have died since. Never raises: what can't be read is `damaged`."""
        path = self.path / STATUS
        try:
            with _open_regular(path) as file:
                return RuntimeStatus.parse(file.read(MAX_STATUS_BYTES + 1))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return RuntimeStatus.damaged(error)

    def write_status(self, state: Literal["failed", "stopped"], message: str, hint: str = "") -> None:
        """Speak for a runtime that is dead and could not say it itself."""
        self._replace(STATUS, RuntimeStatus.now(state, message, hint).as_json())

    def forget_status(self) -> None:
        _remove(self.path / STATUS)

    @property
    def stopped(self) -> bool:
        return (self.path / STOPPED).exists()

    def set_stopped(self, stopped: bool) -> None:
        if stopped:
            (self.path / STOPPED).touch(mode=0o600)
        else:
            _remove(self.path / STOPPED)

    def set_superseded(self, superseded: bool) -> None:
        """Note it where there is a folder, and so perhaps a runtime. Raises OSError."""
        if not superseded:
            _remove(self.path / SUPERSEDED)
        elif self.path.exists():
            (self.path / SUPERSEDED).touch(mode=0o600)

    def write_package(self, package: bytes) -> None:
        """Call it with the start lock: what a writer left that was killed is removed."""
        for part in self.path.glob(f"{PACKAGE}.*"):
            _remove(part)
        self._replace(PACKAGE, package)

    def has_package(self, digest: str) -> bool:
        """Whether the package is there and whole: `digest` is its SHA-256."""
        found = hashlib.sha256()
        try:
            with _open_regular(self.path / PACKAGE) as file:
                while chunk := file.read(CHUNK):
                    found.update(chunk)
        except (OSError, ValueError):
            return False
        return found.hexdigest() == digest

    def remove_package(self) -> None:
        _remove(self.path / PACKAGE)

    @contextlib.contextmanager
    def try_start_lock(self) -> Iterator[bool]:
        """Whether this process may start, stop or remove the runtime now, until the block ends."""
        descriptor = _open_lock(self.path / START_LOCK)
        try:
            yield _try_lock(descriptor) and self._is_start_lock(descriptor)
        finally:
            os.close(descriptor)

    def _is_start_lock(self, descriptor: int) -> bool:
        """Whether it is still the file that others would lock: its holder before us may have removed it."""
        try:
            return os.path.samestat(os.fstat(descriptor), (self.path / START_LOCK).lstat())
        except FileNotFoundError:
            return False

    def runtime_lives(self) -> bool:
        """Whether a runtime holds `lock`. Ask only with the start lock."""
        descriptor = _open_lock(self.path / "lock")
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def runtime_pids(self) -> list[int]:
        """Processes that were started as a runtime of this folder, by their command lines, and their forks.

        The status names one, too. But user code can write the status, and the pid of anybody into it.
        """
        own = os.fsencode(self.path)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if (b"--run-dir", own) in itertools.pairwise(words):
                        found.append(int(entry.name))
        return found

    def connect(self) -> socket.socket:
        """A new non-blocking connection.

        Raises:
            BlockingIOError: The queue is full just now.
            OSError: Nobody listens.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
            try:
                sock.setblocking(False)
                sock.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            finally:
                os.close(folder)
        except BaseException:
            sock.close()
            raise
        return sock

    def address(self) -> str:
        """Host and port of a container that is ready.

        Raises:
            ConnectionRefusedError: None is.
        """
        status = self.status()
        if status is None or not status.address:
            raise ConnectionRefusedError("it is not ready any more")
        return status.address

    def answers(self) -> bool:
        """Whether a runtime that says it is ready still listens: a container may have died a moment before its host."""
        status = self.status()
        if status is None or not status.address:
            return True
        host, _, port = status.address.rpartition(":")
        with socket.socket() as probe:  # on this machine a connection is made or refused at once
            return probe.connect_ex((host, int(port))) == 0

    def use(self) -> int:
        """A descriptor that keeps a container from ending for want of use until it is closed.

        Raises:
            BlockingIOError: It is ending.
        """
        descriptor = _open_lock(self.path / IN_USE)
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
            with open(part, "xb", opener=_private) as file:
                file.write(data)
            _remove_folder(self.path / name)
            part.replace(self.path / name)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    """A file to read that is one: a FIFO would block, a link leads elsewhere."""
    with open(path, "rb", opener=_unfollowed) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path.name} is no file")
        yield file


def _unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _open_lock(path: Path) -> int:
    _remove_folder(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _remove(path: Path) -> None:
    _remove_folder(path)
    path.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    """What should be a file may be made a folder by user code."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
