"""A job on a pod: the worker protocol over TCP.

A machine that dies says nothing, and while we only wait for bytes nothing of ours gets lost, so nobody would notice.
Keepalive asks every second: a dead pod's connection ends after about four. Connecting to one ends after one.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from shardgate_gateway.etl.connection import StreamConnection

if TYPE_CHECKING:
    from shardgate import wire
    from shardgate_gateway.etl.kubernetes.dispatch import Place

CONNECT_SECONDS = 1.0
KEEPALIVE = {
    socket.TCP_NODELAY: 1,
    socket.TCP_KEEPIDLE: 1,
    socket.TCP_KEEPINTVL: 1,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 3000,
}


class PodConnection(StreamConnection):
    """A job that a worker of a pod took. Closing it gives the place on the pod to the next job.

    Args:
        place: On the pod.
        sock: To the pod, connected.
        progress_timeout: Seconds without a sample after which the worker counts as hung.
    """

    def __init__(self, place: Place, sock: socket.socket, progress_timeout: float) -> None:
        super().__init__(sock, progress_timeout)
        self._place = place

    def close(self) -> None:
        super().close()
        if self._place.running:
            self._place.release()


async def open_job(place: Place, job: wire.Job, progress_timeout: float) -> PodConnection:
    """Give a job to the pod of this place, and wait until a worker took it.

    Raises:
        OSError: The pod can't be reached.
        WorkerLost: It ended before a worker took the job.
    """
    connection = PodConnection(place, await connect(place.endpoint.address, place.endpoint.port), progress_timeout)
    try:
        await connection.start(replace(job, ring=False), None)
    except BaseException:
        connection.close()
        raise
    return connection


async def connect(address: str, port: int) -> socket.socket:
    """A connection to a pod, whose death it notices.

    Raises:
        OSError: Refused, or no answer within `CONNECT_SECONDS`.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
