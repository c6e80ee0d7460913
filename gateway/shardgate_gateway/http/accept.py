"""Takes connections from the listening socket that all worker processes share.

One per turn of the event loop: a loop that takes all it can get would leave the other processes without any when a few
long streams begin at the same moment. When the process has no descriptor left, connections wait in the kernel's queue
and accepting is tried again a moment later; before that comes to pass, `Service.max_connections` answers 503.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING

from shardgate_gateway.bounded_log import BoundedLog

if TYPE_CHECKING:
    import socket

    from shardgate_gateway.http.server import Server

log = logging.getLogger(__name__)
exhausted = BoundedLog(log, "attempts to accept connections")

PAUSE_SECONDS = 0.1
"""How long accepting rests when it failed for want of descriptors or memory."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Hands new connections to the server until it is stopped.

    Args:
        listener: Bound, listening, non-blocking.
        server: Makes a protocol for each connection.
    """

    def __init__(self, listener: socket.socket, server: Server) -> None:
        self._listener = listener
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client went away
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            exhausted.write(logging.WARNING, "can't accept connections: %s; trying again", error.strerror)
            self._loop.remove_reader(self._listener.fileno())
            self._pause = self._loop.call_later(PAUSE_SECONDS, self.start)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._server, connection)
        except OSError as error:
            log.info("a connection was lost while it was opened: %s", error)
            connection.close()
