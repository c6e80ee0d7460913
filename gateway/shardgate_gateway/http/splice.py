"""Moves bytes from a connection to a socket inside the kernel, through a pipe that never copies them.

For a body that only passes through this is several times cheaper than reading and writing it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardgate_gateway.cluster.connection import Incoming

PIPE_BYTES = 1 << 20
TURN_BYTES = 4 << 20
"""Bytes after which other requests get their turn."""


async def splice(part: Incoming, out: int, writable: Callable[[], Awaitable[None]]) -> None:
    """Move all bytes of the part.

    Args:
        part: What to move.
        out: Descriptor of a non-blocking socket.
        writable: Waits until it takes bytes.

    Raises:
        UpstreamUnavailable: The connection ended before all bytes came.
        OSError: The socket does not take them.
    """
    end, begin = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with suppress(PermissionError):  # the user's share of large pipes is used up: a small one does
            fcntl.fcntl(begin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        connection, left, turn = part.connection, part.length, 0
        while left:
            if turn >= TURN_BYTES:
                turn = 0
                await asyncio.sleep(0)
            held = await connection.splice(begin, min(left, PIPE_BYTES))
            left -= held
            turn += held
            while held:
                try:
                    held -= os.splice(end, out, held, flags=os.SPLICE_F_MOVE | (os.SPLICE_F_MORE if left else 0))
                except BlockingIOError:
                    await writable()
    finally:
        os.close(end)
        os.close(begin)
