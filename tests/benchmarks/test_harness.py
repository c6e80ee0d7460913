from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.harness import process_tree, resident_bytes, server

BURN = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"


def test_cpu_of_a_tree_counts_children_that_live_and_children_that_are_gone(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        f"burn = {BURN!r}\n"
        "subprocess.run([sys.executable, '-c', burn])\n"
        "subprocess.Popen([sys.executable, '-c', burn + 'print(\"burnt\", flush=True); time.sleep(60)'])\n"
        "time.sleep(60)\n"
    )
    with server([sys.executable, "-c", script], log=tmp_path / "log") as running:
        running.wait_until(lambda: "burnt" in running.output())
        assert running.cpu() >= 0.38
        assert len(process_tree(running.pid)) == 2


def test_processes_can_be_left_out_by_their_command_line(tmp_path: Path) -> None:
    script = (
        "import subprocess, time\nsubprocess.Popen(['sleep', '61'])\nprint('started', flush=True)\ntime.sleep(60)\n"
    )
    with server([sys.executable, "-c", script], log=tmp_path / "log") as running:
        running.wait_until(lambda: "started" in running.output())
        assert len(running.pids()) == 2
        assert running.pids(without="sleep 61") == [running.pid]


def test_a_server_that_dies_is_reported_with_what_it_said(tmp_path: Path) -> None:
    with (
        server([sys.executable, "-c", "raise SystemExit('no port left')"], log=tmp_path / "log") as running,
        pytest.raises(RuntimeError, match="no port left"),
    ):
        running.wait_until(lambda: False)


def test_nothing_is_left_when_the_block_ends(tmp_path: Path) -> None:
    with server(["sleep", "60"], log=tmp_path / "log") as running:
        pid = running.pid
        assert resident_bytes(pid) > 0
    assert not process_tree(pid)


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom benchmarks.harness import command_line, server\n"
        f"with server(['sleep', '60'], log=Path({str(tmp_path / 'log')!r})) as running:\n"
        "    running.wait_until(lambda: command_line(running.pid).startswith('sleep'))\n"
        "    print(running.pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    deadline = time.monotonic() + 10
    while process_tree(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not process_tree(int(done.stdout))
