"""A shard that is pulled through a Service: the gateway behind it dies in the middle, and another one goes on."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gateway_process import running_gateway

from shardgate_runtime.inputs import HttpInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = os.urandom(48 << 20)
"""More than all the buffers on the way hold, so that the first gateway can't have sent it all."""
PART = 1 << 20


class Service:
    """One address in front of several gateways, as a ClusterIP: a connection goes to the gateway of the moment."""

    def __init__(self) -> None:
        self.backend = self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(client)
                server = socket.create_connection(("127.0.0.1", self.backend))
                self._sockets.append(server)
                for pair in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._pump, args=pair))
                    self._threads[-1].start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PART):
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def service() -> Iterator[Service]:
    running = Service()
    try:
        yield running
    finally:
        running.close()


def test_a_shard_goes_on_at_another_gateway_when_one_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.tar").write_bytes(BODY)
    buckets = {"gcp://data": data}
    with (
        service() as front,
        running_gateway(tmp_path / "one", buckets) as one,
        running_gateway(tmp_path / "two", buckets) as two,
    ):
        front.backend = one.port
        url = one.url("gcp://data", "a.tar").replace(f":{one.port}", f":{front.port}")
        etag = f'"{two.client.head("gcp://data", "a.tar").etag}"'
        source = HttpInput(url, "", etag, 0)
        begin = source.read(PART)
        front.backend = two.port
        one.kill()
        parts = [begin]
        while part := source.read(PART):
            parts.append(part)
        assert b"".join(parts) == BODY
        assert front.connections > 1
        source.close()
