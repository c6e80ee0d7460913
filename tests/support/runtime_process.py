"""A runtime as a gateway starts it and talks to it: real processes, real sockets, no HTTP service."""

from __future__ import annotations

import io
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cloudpickle

from shardgate import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

START_SECONDS = 60
ANSWER_SECONDS = 30

WITHOUT_TORCH = {"PYTHONPATH": str(Path(__file__).parent / "without_torch")}
"""A folder whose torch can't be imported."""

Packed = tuple[str, bytes]
"""Id and bytes of a package."""


def package_of(function: Any, **manifest: Any) -> Packed:
    """A function, pickled by value as the client does."""
    module = sys.modules[function.__module__]
    if module.__name__ == "__main__":
        return package_of_bytes(cloudpickle.dumps(function), **manifest)
    cloudpickle.register_pickle_by_value(module)
    try:
        return package_of_bytes(cloudpickle.dumps(function), **manifest)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def package_of_bytes(pickled: bytes, **manifest: Any) -> Packed:
    values = {"name": "test", "decoder": "", "python": f"{sys.version_info.major}.{sys.version_info.minor}"} | manifest
    package = wire.pack_package(wire.Manifest(**values), pickled)
    return wire.transform_id(values["name"], package), package


def tar_of(members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def members_of(tar: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]


@dataclass
class Conversation:
    """The gateway's end of one connection.

    Attributes:
        output: What came, in order, if `keep`.
        checkpoints: For each frame, the bytes up to its end, and its checkpoint.
        total: Bytes that came.
        lost: The worker closed the connection without END or FAIL.
    """

    sock: socket.socket
    keep: bool = True
    hello: wire.Hello | None = None
    output: bytearray = field(default_factory=bytearray)
    checkpoints: list[tuple[int, wire.Checkpoint]] = field(default_factory=list)
    total: int = 0
    stats: wire.Stats | None = None
    end: int | None = None
    failure: wire.Failure | None = None
    lost: bool = False
    ring: mmap.mmap | None = None
    fds: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        if self.ring is not None:
            self.ring.close()
            self.ring = None
        self.sock.close()

    @property
    def over(self) -> bool:
        return self.lost or self.stats is not None or self.failure is not None

    def drain(self) -> Conversation:
        while not self.over:
            self.receive()
        return self

    def receive(self, *, ack: bool = True) -> None:
        """Take one frame."""
        head = self._exactly(wire.FRAME.size)
        if head is None:
            return
        kind, length = wire.FRAME.unpack(head)
        assert length <= wire.MAX_FRAME
        payload = self._exactly(length)
        if payload is None:
            return
        if kind == wire.FrameType.HELLO:
            self._take_hello(payload)
        elif kind in {wire.FrameType.SPAN, wire.FrameType.DATA}:
            self._take_bytes(kind, payload, ack=ack)
        elif kind == wire.FrameType.END:
            end = wire.End.unpack(payload)
            self.stats, self.end = end.stats, end.total
        else:
            assert kind == wire.FrameType.FAIL
            self.failure = wire.Failure.unpack(payload)

    def _take_hello(self, payload: bytes) -> None:
        self.hello = wire.Hello.unpack(payload)
        if self.hello.ring_size:
            self.ring = mmap.mmap(self.fds[0], self.hello.ring_size, prot=mmap.PROT_READ)

    def _take_bytes(self, kind: int, payload: bytes, *, ack: bool) -> None:
        checkpoint = wire.Checkpoint(*wire.CHECKPOINT.unpack_from(payload))
        if kind == wire.FrameType.SPAN:
            offset, length = wire.SPAN.unpack_from(payload, wire.CHECKPOINT.size)
            assert offset + length <= self.hello.ring_size
            data = self.ring[offset : offset + length] if self.keep else b""
        else:
            data = payload[wire.CHECKPOINT.size :]
            length = len(data)
        self.total += length
        if self.keep:
            self.output += data
        self.checkpoints.append((self.total, checkpoint))
        if ack and kind == wire.FrameType.SPAN:  # a gateway acknowledges memory alone
            self.ack()

    def ack(self) -> None:
        """Say that everything that came is consumed. What a dead worker had sent can still be read."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(wire.pack_frame(wire.FrameType.ACK, wire.ACK.pack(self.total)))

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                more, fds, _, _ = socket.recv_fds(self.sock, count - len(data), 1)
            except ConnectionResetError:
                more, fds = b"", []
            self.fds += fds
            if not more:
                self.lost = True
                return None
            data += more
        return data


@dataclass
class Runtime:
    """A started runtime."""

    process: subprocess.Popen[bytes]
    folder: Path
    id: str

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"state": "none"}

    def wait_for(self, *states: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_SECONDS
        while (status := self.status())["state"] not in states:
            assert time.monotonic() < deadline, f"{status}\n{self.log}"
            time.sleep(0.02)
        return status

    def workers(self) -> list[int]:
        """Their pids."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def job(self, **values: Any) -> wire.Job:
        defaults = {"request_id": "r1", "transform_id": self.id, "bucket": "mem://b", "key": "shard.tar", "etag": "v1"}
        return wire.Job(**(defaults | values))

    def connect(self) -> socket.socket:
        scheme, _, where = self.status()["listen"].partition(":")
        if scheme == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(where)
        else:
            host, _, port = where.rpartition(":")
            sock = socket.create_connection((host, int(port)))
        sock.settimeout(ANSWER_SECONDS)
        return sock

    def start(self, shard: bytes | Path | None = None, **job: Any) -> Conversation:
        """Send a job, with the shard as an open file where one is given."""
        request = self.job(**job)
        conversation = Conversation(self.connect())
        if shard is None:
            conversation.sock.sendall(wire.pack_frame(wire.FrameType.JOB, request.pack()))
            return conversation
        path, offset, size = self._as_file(shard)
        request = replace(request, input_offset=offset, input_size=size)
        frame = wire.pack_frame(wire.FrameType.JOB, request.pack())
        fd = os.open(path, os.O_RDONLY)
        try:
            sent = socket.send_fds(conversation.sock, [frame], [fd])
            if sent < len(frame):
                conversation.sock.sendall(frame[sent:])
        finally:
            os.close(fd)
        return conversation

    def run(self, shard: bytes | Path | None = None, *, keep: bool = True, **job: Any) -> Conversation:
        """A whole conversation, with a reader that takes everything at once."""
        with self.start(shard, **job) as conversation:
            conversation.keep = keep
            return conversation.drain()

    def _as_file(self, shard: bytes | Path) -> tuple[Path, int, int]:
        """Path, offset and size; a shard given as bytes gets neighbours, as in a cache entry."""
        if isinstance(shard, Path):
            return shard, 0, shard.stat().st_size
        path = self.folder / f"input-{os.urandom(4).hex()}"
        path.write_bytes(b"header" + shard + b"footer")
        return path, 6, len(shard)


@contextmanager
def start_runtime(
    folder: Path, package: Packed, *arguments: str, listen: str = "", torch: bool = False, **options: Any
) -> Iterator[Runtime]:
    """Start a runtime and stop it by its pid; does not wait until it is ready.

    webdataset imports torch where it can, which takes seconds; only tests that are about torch need it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    transform_id, data = package
    (folder / "package").write_bytes(data)
    values = {
        "package": folder / "package",
        "transform-id": transform_id,
        "listen": listen or f"unix:{folder}/socket",
        "run-dir": folder,
        "workers": 1,
    } | {name.replace("_", "-"): value for name, value in options.items()}
    command = [sys.executable, "-m", "shardgate_runtime", *arguments]
    for name, value in values.items():
        command += [f"--{name}", str(value)]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | ({} if torch else WITHOUT_TORCH))
    try:
        yield Runtime(process, folder, transform_id)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
