"""The socket on which all workers accept."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from shardgate_runtime.failures import StartupError

BACKLOG = 512


def open_listener(address: str) -> tuple[socket.socket, str]:
    """Listen on `unix:PATH` or `tcp:HOST:PORT`; the socket, and its address with the port that port 0 got.

    Raises:
        StartupError: Not possible, and why.
    """
    scheme, _, where = address.partition(":")
    try:
        if scheme == "unix":
            return _listen_unix(Path(where)), address
        if scheme == "tcp":
            host, _, port = where.rpartition(":")
            sock = socket.create_server((host.strip("[]"), int(port)), backlog=BACKLOG, family=_family(host))
            return sock, f"tcp:{host}:{sock.getsockname()[1]}"
    except (OSError, ValueError) as error:
        raise StartupError(f"can't listen on {address}: {error}") from error
    raise StartupError(f"can't listen on {address}", "use unix:PATH or tcp:HOST:PORT")


def host_of(address: str) -> str:
    """Interface on which other sockets of the same runtime listen: the one of a TCP address, else the loopback."""
    scheme, _, where = address.partition(":")
    return where.rpartition(":")[0].strip("[]") if scheme == "tcp" else "127.0.0.1"


def _listen_unix(path: Path) -> socket.socket:
    with suppress(FileNotFoundError):
        path.unlink()  # of a runtime that was killed; the lock on the run folder says that it is dead
    sock = socket.socket(socket.AF_UNIX)
    folder = -1
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")  # an address has at most 107 bytes, folders may be deeper
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return sock


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
