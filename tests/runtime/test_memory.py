"""A shard of any size needs no more memory than a small one."""

from __future__ import annotations

import re
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import members_of, tar_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_process import Runtime

SAMPLE_BYTES = 1 << 20


def measure(sample: dict[str, Any]) -> Any:
    return {"txt": str(len(sample["bin"])), "bin": sample["bin"]}


def sparse_shard(path: Path, samples: int) -> Path:
    """A tar whose members are holes."""
    with path.open("wb") as file:
        for number in range(samples):
            member = tarfile.TarInfo(f"{number:06d}.bin")
            member.size = SAMPLE_BYTES
            file.seek(number * (SAMPLE_BYTES + 512))
            file.write(member.tobuf())
        file.truncate(samples * (SAMPLE_BYTES + 512) + 1024)
    return path


class Peak(threading.Thread):
    """Watches the private memory of a process, which a reset makes start anew."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid, self.bytes, self.done = pid, 0, False

    def run(self) -> None:
        while not self.done:
            status = Path(f"/proc/{self.pid}/status").read_text()
            self.bytes = max(self.bytes, int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) << 10)
            time.sleep(0.005)


def peak_of(runtime: Runtime, shard: Path, **job: Any) -> int:
    (pid,) = runtime.workers()
    peak = Peak(pid)
    peak.start()
    conversation = runtime.run(shard, keep=False, **job)
    peak.done = True
    peak.join()
    assert conversation.stats is not None, conversation.failure
    return peak.bytes


@pytest.mark.slow  # a gigabyte has to flow
@pytest.mark.parametrize("ring", [True, False])
def test_memory_does_not_grow_with_the_shard(start: Callable[..., Runtime], tmp_path: Path, ring: bool) -> None:
    runtime = start(measure)
    small = peak_of(runtime, sparse_shard(tmp_path / "small.tar", 50), ring=ring)
    large = peak_of(runtime, sparse_shard(tmp_path / "large.tar", 1000), ring=ring)
    assert large < small + 4 * SAMPLE_BYTES


def test_a_paused_reader_stops_the_worker(start: Callable[..., Runtime], tmp_path: Path) -> None:
    runtime = start(measure, options={"ring_bytes": 2 << 20})
    (pid,) = runtime.workers()
    with runtime.start(sparse_shard(tmp_path / "shard.tar", 200), ring=True) as conversation:
        conversation.keep = False
        for _ in range(2):
            conversation.receive(ack=False)
        time.sleep(0.3)
        before = cpu_ticks(pid)
        time.sleep(0.5)
        assert cpu_ticks(pid) == before
        conversation.ack()
        assert conversation.drain().stats.samples_out == 200


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def hoard(sample: dict[str, Any]) -> Any:
    kept = []
    while sample["bin"] == b"hoard":
        kept.append(bytearray(16 << 20))
    return sample


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_allocating_without_end_is_a_failure_of_the_sample_and_costs_the_worker_after_its_job(
    start: Callable[..., Runtime], policy: str
) -> None:
    runtime = start(hoard, on_error=policy, options={"memory_bytes": 128 << 20})
    (before,) = runtime.workers()
    conversation = runtime.run(tar_of([("a.bin", b"a"), ("b.bin", b"hoard"), ("c.bin", b"c")]), request_id="full")
    if policy == "fail":
        assert "MemoryError" in conversation.failure.message
        assert "etl.memory_bytes" in conversation.failure.hint
        assert conversation.failure.key == "b"
    else:
        assert [name for name, _ in members_of(bytes(conversation.output))] == ["a.bin", "c.bin"]
        assert "left out: MemoryError" in runtime.log
    after = runtime.run(tar_of([("a.bin", b"a")]), request_id="full")
    assert after.stats.samples_out == 1
    assert after.hello.death is None
    assert runtime.workers() != [before]


def test_a_sample_too_big_for_the_worker_is_refused_while_it_is_read(
    start: Callable[..., Runtime], tmp_path: Path
) -> None:
    runtime = start(measure, options={"memory_bytes": 64 << 20})
    path = tmp_path / "big.tar"
    member = tarfile.TarInfo("a.bin")
    member.size = 256 << 20
    with path.open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)
    failure = runtime.run(path).failure
    assert failure.code == "input_invalid"
    assert "does not fit the worker's memory" in failure.message
