"""The watchdog ends what does not come back, blames nobody else, and lets those live who wait."""

from __future__ import annotations

import mmap
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shardgate_runtime import watchdog as watchdog_module
from shardgate_runtime.scoreboard import SLOT_BYTES, Slot, State
from shardgate_runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def slot() -> Slot:
    return Slot(mmap.mmap(-1, SLOT_BYTES), 0)


@pytest.fixture
def spawn() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started = []

    def start(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def state_of(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_sample_that_is_overdue_ends_its_worker(slot: Slot, spawn: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = spawn("import time; time.sleep(1000)")
    watchdog = Watchdog(slot, 0.01)
    slot.begin_request("r")
    slot.begin_sample(7, "seven")
    time.sleep(0.02 + watchdog_module.GRACE_SECONDS)
    assert watchdog.kill_if_overdue(process.pid) == "sample timeout after 0.01 s"
    assert process.wait(10) == -9
    assert slot.sample()[0] == 7


def test_a_worker_that_moved_on_before_it_was_killed_lives(
    slot: Slot, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = spawn("import time; time.sleep(1000)")
    watchdog = Watchdog(slot, 0.01)
    slot.begin_request("r")
    slot.begin_sample(7, "seven")
    time.sleep(0.02 + watchdog_module.GRACE_SECONDS)
    stopped = watchdog_module._await_stop

    def await_stop(pid: int) -> None:
        slot.end_sample()
        slot.begin_sample(8, "eight")
        stopped(pid)
        assert state_of(process) == "T"

    monkeypatch.setattr(watchdog_module, "_await_stop", await_stop)
    assert watchdog.kill_if_overdue(process.pid) == ""
    assert process.poll() is None
    assert state_of(process) != "T"


def test_a_worker_that_computes_without_a_sample_is_ended(
    slot: Slot, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "BETWEEN_SECONDS", 0.3)
    process = spawn("while True: pass")
    watchdog = Watchdog(slot, 0.2)
    slot.begin_request("r")
    deadline = time.monotonic() + 60
    while not (verdict := watchdog.kill_if_overdue(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert verdict == "computed for 0.3 s between two samples"
    assert process.wait(10) == -9


def test_a_worker_that_is_stopped_is_ended_and_one_that_goes_on_lives(
    slot: Slot, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "STOPPED_SECONDS", 0.2)
    process = spawn("import time; time.sleep(1000)")
    watchdog = Watchdog(slot, 0.0)
    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        while state_of(process) != "T":
            time.sleep(0.01)
        assert watchdog.kill_if_overdue(process.pid) == ""
        process.send_signal(signal.SIGCONT)
        while state_of(process) == "T":
            time.sleep(0.01)
        time.sleep(0.25)
        assert watchdog.kill_if_overdue(process.pid) == ""
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while not (verdict := watchdog.kill_if_overdue(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert verdict == watchdog_module.STOPPED
    assert process.wait(10) == -9


def test_a_worker_that_waits_for_its_reader_lives(
    slot: Slot, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "BETWEEN_SECONDS", 0.0)
    process = spawn("import time; time.sleep(1000)")
    watchdog = Watchdog(slot, 0.01)
    slot.begin_request("r")
    while state_of(process) != "S":
        time.sleep(0.01)
    for _ in range(5):
        assert watchdog.kill_if_overdue(process.pid) == ""
        time.sleep(0.02)


def test_a_worker_whose_samples_come_and_go_may_compute_for_ever(
    slot: Slot, spawn: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "BETWEEN_SECONDS", 0.2)
    process = spawn("while True: pass")
    watchdog = Watchdog(slot, 0.1)
    slot.begin_request("r")
    before = watchdog_module._processor_seconds(process.pid)
    while watchdog_module._processor_seconds(process.pid) - before < 0.6:
        slot.begin_sample(1, "quick")
        slot.end_sample()
        assert watchdog.kill_if_overdue(process.pid) == ""
    slot.set_state(State.IDLE)
    assert watchdog.kill_if_overdue(process.pid) == ""
