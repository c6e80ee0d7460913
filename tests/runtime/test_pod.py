"""A runtime as a pod runs it: its package comes by HTTP, probes ask how it is, and it ends gently."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
from http_lab import Web, web
from runtime_process import WITHOUT_TORCH, Runtime, package_of, tar_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARD = tar_of([(f"{i}.txt", b"x") for i in range(20)])


def wait(sample: dict[str, Any], args: str) -> Any:
    import time

    time.sleep(float(args))
    return sample


ID, PACKAGE = package_of(wait)


@contextmanager
def pod(folder: Path, origin: str, *options: str, transform_id: str = ID) -> Iterator[Runtime]:
    """A runtime that was started as in a pod, and is not waited for."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("secret\n")
    command = [sys.executable, "-m", "shardgate_runtime", "--stay", "--transform-id", transform_id]
    command += [f"--package-url={origin}/package", f"--token-file={folder / 'token'}", f"--run-dir={folder}"]
    command += ["--listen=tcp:127.0.0.1:0", "--status-port=0", "--workers=2", f"--termination-log={folder / 'words'}"]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=out, env=os.environ | WITHOUT_TORCH)
    try:
        yield Runtime(process, folder, transform_id)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def origin() -> Iterator[Web]:
    with web() as state:
        state.files["/package"] = PACKAGE
        yield state


def ask(runtime: Runtime, path: str) -> tuple[int, str]:
    port = runtime.status()["status_port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def words(runtime: Runtime) -> dict[str, str]:
    data = (runtime.folder / "words").read_bytes()
    assert len(data) <= 4096
    return json.loads(data)


def test_a_pod_tells_how_it_is_works_and_ends_gently(tmp_path: Path, origin: Web) -> None:
    with pod(tmp_path / "run", origin.url, "--drain-seconds=30") as runtime:
        runtime.wait_for("ready")
        assert origin.seen == [("GET", "/package", "Bearer secret")]
        assert ask(runtime, "/healthz") == (200, "ok\n")
        assert ask(runtime, "/readyz") == (200, "ready\n")
        assert ask(runtime, "/nonsense")[0] == 404
        assert runtime.run(url=serve(origin, "/shard", SHARD), args="0").stats.samples_out == 20
        with runtime.start(url=serve(origin, "/shard", SHARD), args="0.2", request_id="r7") as busy:
            while busy.hello is None:
                busy.receive()
            status = json.loads(ask(runtime, "/status")[1])
            assert (status["state"], status["transform_id"], status["deaths"]) == ("ready", ID, 0)
            assert {"request": "r7"}.items() <= next(w for w in status["workers"] if w["state"] == "busy").items()
            assert 'shardgate_runtime_workers{state="busy"} 1' in ask(runtime, "/metrics")[1]
            runtime.process.send_signal(signal.SIGTERM)
            while ask(runtime, "/readyz") != (503, "draining\n"):
                time.sleep(0.01)
            assert ask(runtime, "/healthz")[0] == 200
            with pytest.raises(ConnectionRefusedError):
                runtime.connect()
            assert busy.drain().stats.samples_out == 20
        assert runtime.process.wait(30) == 0
    assert not (tmp_path / "run/words").exists()


def serve(origin: Web, path: str, body: bytes) -> str:
    origin.files[path] = body
    return f"{origin.url}{path}"


def test_a_silent_visitor_of_the_status_port_keeps_nobody_waiting(tmp_path: Path, origin: Web) -> None:
    with pod(tmp_path / "run", origin.url) as runtime:
        port = runtime.wait_for("ready")["status_port"]
        place = ("127.0.0.1", port)
        with socket.create_connection(place) as silent, socket.create_connection(place) as big:
            big.sendall(b"GET /" + b"x" * 10_000)
            assert ask(runtime, "/readyz")[0] == 200
            silent.settimeout(20)
            assert silent.recv(1) == b""


WITHOUT_DESCRIPTORS = """
import os, resource, signal, socket
from shardgate_runtime.status_port import StatusPort, View
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
port = StatusPort("127.0.0.1", 0)
client = socket.create_connection(("127.0.0.1", port.port))
client.sendall(b"GET /healthz HTTP/1.1\\r\\n\\r\\n")
view = View("t", (), False, 0, 0.0)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
port.answer(view)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
port.answer(view)
print(client.recv(15).decode())
"""


def test_a_visitor_for_whom_no_descriptor_is_free_does_not_stop_the_parents_loop() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_DESCRIPTORS], capture_output=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == (b"HTTP/1.1 200 OK\n", b"")


def test_a_gateway_that_comes_late_is_waited_for(tmp_path: Path, origin: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    with pod(tmp_path / "run", f"http://127.0.0.1:{port}") as runtime:
        while "can't be fetched yet" not in runtime.log:
            time.sleep(0.02)
        with web(port=port) as late:
            late.files["/package"] = PACKAGE
            late.statuses = [503, 0, 500]  # busy, then one that dies in the middle of the body, then one that is ill
            runtime.wait_for("ready")
            assert len(late.seen) == 4


@pytest.mark.parametrize(("status", "hint"), [(401, "token"), (403, "token"), (404, "register")])
def test_a_gateway_that_says_no_is_believed(tmp_path: Path, origin: Web, status: int, hint: str) -> None:
    origin.statuses = [status]
    with pod(tmp_path / "run", origin.url) as runtime:
        assert runtime.process.wait(60) == os.EX_CONFIG
        assert len(origin.seen) == 1
        assert f"answered {status}: says the test" in words(runtime)["message"]
        assert hint in words(runtime)["hint"]
        assert runtime.status()["state"] == "failed"


def test_another_package_than_the_one_that_was_asked_for_is_refused(tmp_path: Path, origin: Web) -> None:
    origin.files["/package"] = PACKAGE[:-1] + b"?"
    with pod(tmp_path / "run", origin.url) as runtime:
        assert runtime.process.wait(60) == os.EX_CONFIG
        assert f"not {ID}" in words(runtime)["message"]


def test_a_function_that_raises_on_import_leaves_whole_last_words(tmp_path: Path, origin: Web) -> None:
    from runtime_process import package_of_bytes

    text = "\\u00e4" * 9000
    pickled = f"cbuiltins\nexec\n(V1/0 #{text}\ntR.".encode()
    bad_id, origin.files["/package"] = package_of_bytes(pickled)
    with pod(tmp_path / "run", origin.url, transform_id=bad_id) as runtime:
        assert runtime.process.wait(60) == os.EX_CONFIG
        assert words(runtime)["message"].startswith("loading the function failed: ZeroDivisionError: division by zero")
        assert words(runtime)["message"].rstrip().endswith("ZeroDivisionError: division by zero")
