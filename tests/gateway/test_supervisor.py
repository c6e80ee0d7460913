"""Worker processes share a port, are replaced when they crash, drain when asked, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gateway_process import GatewayProcess, eventually, running_gateway
from readers import curl

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = os.urandom(1 << 20) * 16


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "big").write_bytes(BIG)
    (folder / "small").write_bytes(b"small")
    return folder


@pytest.fixture
def gateway(tmp_path: Path, data: Path) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path / "gateway", {"gcp://data": data}, workers=2) as running:
        yield running


class SlowReader:
    """Has the headers of a big body, and takes no more than that until it is told to."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._socket = socket.create_connection(("127.0.0.1", gateway.port))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._socket.sendall(b"GET /v1/objects/data/big HTTP/1.1\r\nHost: g\r\n\r\n")
        self.port = self._socket.getsockname()[1]
        self.body = self._socket.recv(4096).partition(b"\r\n\r\n")[2]

    def finish(self) -> bytes:
        try:
            while len(self.body) < len(BIG) and (data := self._socket.recv(1 << 20)):
                self.body += data
        except ConnectionError:
            pass
        self._socket.close()
        return self.body


def test_the_workers_share_the_port(gateway: GatewayProcess) -> None:
    first, second = gateway.workers()
    readers = [SlowReader(gateway) for _ in range(12)]
    assert {gateway.worker_of(reader.port) for reader in readers} == {first, second}
    assert all(reader.finish() == BIG for reader in readers)


def test_a_crashed_worker_is_replaced_and_no_new_connection_fails(gateway: GatewayProcess) -> None:
    failures = []
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            if curl(gateway.url("gcp://data", "small")).exit == 7:  # can't connect
                failures.append(1)

    thread = threading.Thread(target=knock)
    thread.start()
    for victim in gateway.workers():
        before = set(gateway.workers())
        os.kill(victim, signal.SIGKILL)
        eventually(lambda before=before: len(set(gateway.workers()) | before) == 3 and len(gateway.workers()) == 2)
        eventually(lambda: curl(f"{gateway.endpoint}/readyz").status == 200)
    stop.set()
    thread.join()
    assert failures == []
    assert gateway.said.count("starting another") == 2


def test_a_reader_of_a_crashed_worker_notices(gateway: GatewayProcess) -> None:
    reader = SlowReader(gateway)
    os.kill(gateway.worker_of(reader.port), signal.SIGKILL)
    assert len(reader.finish()) < len(BIG)


def test_a_replaced_worker_goes_on_counting(gateway: GatewayProcess) -> None:
    def count() -> int:
        lines = curl(f"{gateway.endpoint}/metrics").body.decode().splitlines()
        return sum(int(float(line.split()[1])) for line in lines if line.startswith("shardgate_http_requests_total"))

    def running() -> str:
        lines = curl(f"{gateway.endpoint}/metrics").body.decode().splitlines()
        return next(line for line in lines if line.startswith("shardgate_http_running "))

    for _ in range(10):
        assert curl(f"{gateway.endpoint}/v1/buckets").status == 200
    reader = SlowReader(gateway)
    before = count()
    os.kill(gateway.worker_of(reader.port), signal.SIGKILL)
    eventually(lambda: gateway.said.count("starting another") == 1)
    assert count() >= before
    assert running() == "shardgate_http_running 1.0"
    reader.finish()


def test_sigterm_finishes_what_is_running_and_takes_nothing_new(gateway: GatewayProcess) -> None:
    kept = socket.create_connection(("127.0.0.1", gateway.port))
    kept.sendall(b"GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n")
    assert kept.recv(65536).startswith(b"HTTP/1.1 200")
    worker = gateway.worker_of(kept.getsockname()[1])
    reader = SlowReader(gateway)
    while gateway.worker_of(reader.port) != worker:  # both on one worker, so that it has something to finish
        reader.finish()
        reader = SlowReader(gateway)
    os.kill(gateway.tree()[0], signal.SIGTERM)
    eventually(lambda: curl(f"{gateway.endpoint}/healthz").exit == 7, what="the end of the listening socket")
    kept.sendall(b"GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n")
    answer = kept.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Connection: close" in answer
    kept.close()
    assert reader.finish() == BIG
    assert gateway.stop() == 0


def test_what_is_not_done_when_the_time_to_drain_is_over_is_broken_off(tmp_path: Path, data: Path) -> None:
    with running_gateway(tmp_path / "gateway", {"gcp://data": data}, settings={"serve.drain_seconds": 0.5}) as gateway:
        reader = SlowReader(gateway)
        assert gateway.stop() == 0
        assert len(reader.finish()) < len(BIG)


def test_a_second_signal_does_not_wait(gateway: GatewayProcess) -> None:
    reader = SlowReader(gateway)
    supervisor = gateway.tree()[0]
    os.kill(supervisor, signal.SIGINT)
    eventually(lambda: curl(f"{gateway.endpoint}/healthz").exit == 7)
    os.kill(supervisor, signal.SIGINT)
    assert gateway.stop() == 0
    assert len(reader.finish()) < len(BIG)


def test_workers_end_when_their_supervisor_is_killed(gateway: GatewayProcess) -> None:
    workers = gateway.workers()
    os.kill(gateway.tree()[0], signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), what="the end of the workers")
    gateway.kill()
    gateway.start()
    assert curl(gateway.url("gcp://data", "small")).body == b"small"


def folders_of_metrics(folder: Path) -> set[Path]:
    return set(folder.glob("shardgate-metrics-*"))


def test_a_supervisor_that_was_killed_leaves_no_folder_for_ever(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with running_gateway(tmp_path / "a", {"gcp://data": data}) as killed:
        (left,) = folders_of_metrics(temporary)
        killed.kill()
        os.utime(left, (0, 0))
        with running_gateway(tmp_path / "b", {"gcp://data": data}) as living:
            (used,) = folders_of_metrics(temporary)
            assert used != left
            os.utime(used, (0, 0))
            killed.start()  # a second one beside it removes nothing that is in use
            assert used in folders_of_metrics(temporary)
            assert curl(f"{living.endpoint}/metrics").status == 200
    assert not folders_of_metrics(temporary)


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A gateway that is not going to start."""
    return subprocess.run(
        [sys.executable, "-m", "shardgate_gateway", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bucket", "nonsense"], "PROVIDER://NAME=WHERE"),
        (["--host", "0.0.0.0"], "serve.token"),
        (["--bucket", "aws://b=s3://b?endpont=x"], "endpont"),
        (["--cache-dir", "/proc/nowhere"], "cache.dir"),
        (["--state-dir", "/proc/nowhere"], "state.dir"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--host", "192.0.2.1", "--token", "t"], "serve.host"),
        (["--workers", "2", "--bucket", "gcp://b=mem://"], "serve.workers"),
    ],
)
def test_a_gateway_that_can_not_start_says_why_and_ends(tmp_path: Path, flags: list[str], said: str) -> None:
    folders = {"SHARDGATE_CACHE__DIR": str(tmp_path / "c"), "SHARDGATE_STATE__DIR": str(tmp_path / "s")}
    ended = serve(*flags, **folders)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "hint:" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "listening" not in ended.stdout


def test_a_taken_port_is_named(gateway: GatewayProcess, tmp_path: Path) -> None:
    ended = serve("--port", str(gateway.port), "--cache-dir", str(tmp_path / "c"), "--state-dir", str(tmp_path / "s"))
    assert ended.returncode == 2
    assert str(gateway.port) in ended.stderr
