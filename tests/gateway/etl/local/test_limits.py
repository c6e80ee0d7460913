"""What a container's limits leave of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from shardgate_gateway.etl.local import limits

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups in a folder; this process is in /pods/pod."""
    (tmp_path / "cgroups" / "pods" / "pod").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/pods/pod\n")
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(64))
    return tmp_path / "cgroups"


def test_without_a_limit_it_is_the_machine(cgroup: Path) -> None:
    (cgroup / "pods" / "cpu.max").write_text("max 100000\n")
    assert limits.processors() == 64


def test_a_part_of_a_processor_counts_as_one(cgroup: Path) -> None:
    (cgroup / "pods" / "pod" / "cpu.max").write_text("250000 100000\n")
    assert limits.processors() == 3
    (cgroup / "pods" / "pod" / "cpu.max").write_text("20000 100000\n")
    assert limits.processors() == 1


def test_the_tightest_level_counts(cgroup: Path) -> None:
    (cgroup / "pods" / "pod" / "cpu.max").write_text("800000 100000\n")
    (cgroup / "pods" / "cpu.max").write_text("200000 100000\n")
    assert limits.processors() == 2


def test_processors_that_are_not_ours_do_not_count(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5})
    assert limits.processors() == 2


def test_memory_is_shared_out_with_something_left(cgroup: Path) -> None:
    (cgroup / "pods" / "pod" / "memory.max").write_text(f"{1 << 30}\n")
    assert limits.memory_per_worker(4) == (1 << 30) * 0.8 // 4


def test_a_machine_without_control_groups_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWN", tmp_path / "none")
    assert limits.processors() >= 1
