"""Starting, failing to start, watching, and going away: the runtime as its gateway sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import WITHOUT_TORCH, package_of, package_of_bytes, start_runtime, tar_of

from shardgate import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_process import Runtime

SHARD = tar_of([(f"{i}.txt", b"x") for i in range(20)])


def keep(sample: dict[str, Any]) -> Any:
    return sample


def wait(sample: dict[str, Any], args: str) -> Any:
    import time

    time.sleep(float(args))
    return sample


class Model:
    """A class, as one would write it for a model."""

    def setup(self) -> None:
        import os

        self.pid = os.getpid()

    def __call__(self, sample: dict[str, Any]) -> Any:
        import os

        import torch

        threads = torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ["PYTHONHASHSEED"]
        return {"json": [self.pid, os.getpid(), *threads]}


class Broken:
    def setup(self) -> None:
        raise FileNotFoundError("weights.pt is not here")

    def __call__(self, sample: dict[str, Any]) -> Any:
        return sample


class Dying(Broken):
    def setup(self) -> None:
        import ctypes

        ctypes.string_at(0)


class NotCallable:
    pass


class DiesLater:
    """Its setup works only until the first worker has died."""

    def setup(self) -> None:
        from pathlib import Path

        marker = Path(os.environ["MARKER"])
        if marker.exists():
            raise RuntimeError("the model server is gone")
        marker.touch()

    def __call__(self, sample: dict[str, Any]) -> Any:
        return sample


class DiesWhenReady:
    """A thread that its setup starts ends the process a moment later, once there is a marker."""

    def setup(self) -> None:
        import os
        import threading
        import time
        from pathlib import Path

        def end() -> None:
            while not Path(os.environ["MARKER"]).exists():
                time.sleep(0.01)
            time.sleep(float(os.environ["MOMENT"]))
            os._exit(3)

        threading.Thread(target=end, daemon=True).start()

    def __call__(self, sample: dict[str, Any]) -> Any:
        return sample


@pytest.fixture(scope="module")
def kept(start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(keep)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def failed(runtime: Runtime) -> dict[str, Any]:
    status = runtime.wait_for("failed", "ready")
    assert status["state"] == "failed", status
    assert runtime.process.wait(10) == os.EX_CONFIG
    return status


def test_setup_runs_in_every_worker_and_workers_have_one_thread(start: Callable[..., Runtime]) -> None:
    import json

    from runtime_process import members_of

    runtime = start(Model, options={"torch": True}, requirements=("torch>=2",))
    (_, data), *_ = members_of(bytes(runtime.run(SHARD).output))
    assert json.loads(data) == [*runtime.workers(), *runtime.workers(), 1, "1", "0"]


@pytest.mark.parametrize(
    ("package", "message", "hint"),
    [
        (package_of(Broken), "FileNotFoundError: weights.pt is not here", "setup()"),
        (package_of(Dying), "died in setup: killed by SIGSEGV", "setup()"),
        (package_of(NotCallable), "can't be called", ""),
        (package_of(keep, python="2.7"), "pickled by Python 2.7", "etl.python"),
        (package_of(keep, requirements=("no-such-thing==1.0", "numpy==1.0")), "no-such-thing==1.0", "pip install"),
        (package_of(keep, decoder="cubist"), "cubist", "imagespecs"),
        (package_of_bytes(b"cno_such_module\nf\n."), "No module named 'no_such_module'", "importable"),
        (package_of_bytes(b"not a pickle"), "loading the function failed", ""),
        (("test-0000000000000000", package_of(keep)[1]), "not test-0000000000000000", "register"),
        (("test", b"rubbish"), "not a transform package", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_keeps_a_runtime_from_starting_stands_in_its_status(
    tmp_path: Path, package: Any, message: str, hint: str
) -> None:
    with start_runtime(tmp_path, package) as runtime:
        status = failed(runtime)
    assert message in status["message"]
    assert hint in status["hint"]
    assert message in runtime.log


def test_another_version_of_a_requirement_is_only_a_warning(start: Callable[..., Runtime]) -> None:
    runtime = start(keep, requirements=("numpy==1.0",))
    assert "captured with numpy==1.0" in runtime.log
    assert runtime.run(SHARD).stats.samples_out == 20


def test_an_address_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    for number, listen in enumerate(["unix:/no/such/folder/socket", "tcp:256.0.0.1:1", "pigeon:x"]):
        with start_runtime(tmp_path / str(number), package_of(keep), listen=listen) as runtime:
            assert f"can't listen on {listen}" in failed(runtime)["message"]


def test_only_one_runtime_works_in_a_folder(start: Callable[..., Runtime]) -> None:
    runtime = start(keep)
    with start_runtime(runtime.folder, package_of(keep)) as second:
        assert second.process.wait(30) == os.EX_TEMPFAIL
        assert "another runtime" in second.log
    assert runtime.run(SHARD).stats.samples_out == 20


def test_tcp_works_with_a_port_chosen_by_the_system(start: Callable[..., Runtime]) -> None:
    runtime = start(keep, options={"listen": "tcp:127.0.0.1:0"})
    conversation = runtime.run(url="http://127.0.0.1:9/none", ring=True)
    assert conversation.hello.ring_size == 0
    assert conversation.failure.code == "input_unavailable"


def test_a_job_for_another_transform_or_without_input_is_refused_after_hello(kept: Runtime) -> None:
    runtime = kept
    for values in ({"transform_id": "other-1"}, {}):
        conversation = runtime.run(None, **values)
        assert conversation.hello is not None
        assert conversation.failure.code == "internal"
    assert "this runtime runs" in runtime.run(SHARD, transform_id="other-1").failure.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\7\0\0\0\0",
        b"\1\xff\xff\xff\xff",
        wire.pack_frame(wire.FrameType.JOB, b"rubbish"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_whoever_does_not_speak_the_protocol_is_dropped(kept: Runtime, data: bytes) -> None:
    runtime = kept
    with runtime.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(100):
            pass
    assert runtime.run(SHARD).stats.samples_out == 20
    assert len(runtime.workers()) == 1


def test_an_idle_runtime_stops_by_itself_and_a_busy_one_does_not(start: Callable[..., Runtime]) -> None:
    runtime = start(wait, options={"idle_seconds": 1})
    assert runtime.run(SHARD, args="0.15").stats.samples_out == 20
    assert runtime.process.wait(20) == 0
    assert runtime.status()["state"] == "stopped"


def test_sigterm_lets_a_worker_finish_its_job_and_ends_an_idle_one(start: Callable[..., Runtime]) -> None:
    runtime = start(wait, options={"workers": 2})
    with runtime.start(SHARD, args="0.1") as conversation:
        conversation.receive()
        conversation.receive()
        runtime.process.terminate()
        assert eventually(lambda: len(runtime.workers()) == 1)
        assert conversation.drain().stats.samples_out == 20
    assert runtime.process.wait(20) == 0
    assert runtime.status()["state"] == "stopped"


def test_dead_workers_are_replaced(start: Callable[..., Runtime]) -> None:
    runtime = start(keep, options={"workers": 2})
    assert eventually(lambda: len(runtime.workers()) == 2)
    before = runtime.workers()
    os.kill(before[0], signal.SIGKILL)
    assert eventually(lambda: len(runtime.workers()) == 2 and before[0] not in runtime.workers())
    assert runtime.run(SHARD).stats.samples_out == 20


def test_a_worker_killed_from_outside_is_reported_as_uncertain_and_its_shard_continues(
    start: Callable[..., Runtime],
) -> None:
    runtime = start(wait)
    (pid,) = runtime.workers()
    with runtime.start(SHARD, args="0.1", careful=True) as conversation:
        for _ in range(4):
            conversation.receive()
        time.sleep(0.05)  # well into the next sample
        os.kill(pid, signal.SIGKILL)
        conversation.drain()
        assert conversation.lost
    total, checkpoint = conversation.checkpoints[-1]
    where = {"sample": checkpoint.next_sample, "input": checkpoint.next_input, "output": total}
    rest = runtime.run(SHARD, args="0", **where)
    assert rest.hello.death.reason == "killed by SIGKILL (out of memory?)"
    assert rest.hello.death.deterministic is False
    assert rest.hello.death.sample == checkpoint.next_sample
    assert conversation.output + rest.output == runtime.run(SHARD, args="0").output


def test_setup_that_fails_later_is_tried_again_with_pauses_and_then_given_up(
    start: Callable[..., Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    runtime = start(DiesLater)
    (pid,) = runtime.workers()
    os.kill(pid, signal.SIGKILL)
    status = runtime.wait_for("failed")
    assert "the model server is gone" in status["message"]
    assert runtime.log.count("could not be set up") >= 3


def test_workers_that_die_as_soon_as_they_are_ready_are_not_forked_without_end(
    start: Callable[..., Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("MOMENT", "1")
    runtime = start(DiesWhenReady)
    (tmp_path / "marker").touch()

    def deaths() -> list[datetime]:
        said = [line for line in runtime.log.splitlines() if "died before it had anything to do: exit code 3" in line]
        return [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in said]  # noqa: DTZ007

    assert eventually(lambda: len(deaths()) >= 4, 60)
    first, _, _, fourth = deaths()[:4]
    assert (fourth - first).total_seconds() > 4.4, "three moments, and before the third and fourth 0.5 and 1 s"


def test_a_runtime_whose_workers_never_stay_is_not_left_starting(
    start: Callable[..., Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marker").touch()
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("MOMENT", "0.03")
    status = start(DiesWhenReady).status()
    assert status["state"] == "ready" or "exit code 3" in status["message"]


@pytest.mark.parametrize("stay", [False, True])
def test_a_runtime_dies_with_its_parent_unless_told_to_stay(tmp_path: Path, stay: bool) -> None:
    transform_id, package = package_of(keep)
    (tmp_path / "package").write_bytes(package)
    command = [
        sys.executable,
        "-m",
        "shardgate_runtime",
        "--package",
        f"{tmp_path}/package",
        "--transform-id",
        transform_id,
    ]
    command += ["--listen", f"unix:{tmp_path}/socket", "--run-dir", str(tmp_path)]
    command += ["--workers", "1"] + ["--stay"] * stay
    starter = f"import subprocess, time; print(subprocess.Popen({command!r}).pid, flush=True); time.sleep(100)"
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, env=os.environ | WITHOUT_TORCH)
    pid = int(parent.stdout.readline())
    assert eventually(
        lambda: (tmp_path / "status.json").exists() and "ready" in (tmp_path / "status.json").read_text(), 60
    )
    workers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        if stay:
            time.sleep(0.5)
            assert alive(pid)
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not alive(pid))
        assert eventually(lambda: not any(alive(worker) for worker in workers))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_reader_that_leaves_frees_the_worker_within_a_sample(start: Callable[..., Runtime]) -> None:
    runtime = start(wait)
    for ring in (True, False):
        with runtime.start(SHARD, args="0.3", ring=ring, request_id="left") as conversation:
            conversation.receive()
            conversation.receive()
        begin = time.monotonic()
        assert runtime.run(tar_of([("a.txt", b"")]), args="0").stats.samples_out == 1
        assert time.monotonic() - begin < 3, "the remaining samples would take 5.7 s"


def test_readers_that_left_before_their_turn_leave_no_open_file_behind(start: Callable[..., Runtime]) -> None:
    runtime = start(wait)
    runtime.run(SHARD, args="0")
    (worker,) = runtime.workers()

    def open_inputs() -> list[str]:
        files = [str(fd.readlink()) for fd in Path(f"/proc/{worker}/fd").iterdir()]
        return [file for file in files if "/input-" in file]

    with runtime.start(SHARD, args="0.2", request_id="busy") as busy:
        busy.receive()
        for number in range(5):
            runtime.start(SHARD, args="0", request_id=f"left-{number}").close()
        assert busy.drain().stats is not None
    assert runtime.run(SHARD, args="0", request_id="after").stats is not None
    assert runtime.workers() == [worker]
    assert eventually(lambda: not open_inputs()), open_inputs()


def test_a_new_job_never_overwrites_what_the_gateway_still_reads(start: Callable[..., Runtime]) -> None:
    runtime = start(keep, options={"ring_bytes": 1 << 16})
    big = tar_of([("a.txt", b"A" * 20000)])
    with runtime.start(big, ring=True) as slow:
        while not slow.checkpoints:
            slow.receive(ack=False)
        slow.sock.shutdown(socket.SHUT_RDWR)  # gone without having acknowledged, but the memory is still mapped
        other = tar_of([("b.txt", b"B" * 20000)])
        assert runtime.run(other, ring=True).stats.samples_out == 1
        assert slow.ring[512:20512] == b"A" * 20000


def test_what_user_code_prints_is_in_the_log(start: Callable[..., Runtime]) -> None:
    runtime = start(shout)
    runtime.run(SHARD)
    assert runtime.log.count("hello from 7") == 1


def shout(sample: dict[str, Any]) -> Any:
    print("hello from", sample["__key__"])
    return sample


def test_a_sample_that_hangs_is_killed_also_where_the_transform_sets_no_limit(start: Callable[..., Runtime]) -> None:
    runtime = start(wait, options={"stall_seconds": 0.5})
    assert runtime.run(tar_of([("a.txt", b"")]), args="60").lost
    again = runtime.run(tar_of([("a.txt", b"")]), args="0")
    assert again.hello.death.reason == "sample timeout after 0.5 s"
    assert again.stats.samples_out == 1
