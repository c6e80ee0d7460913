"""Processes that user code starts: none outlives its worker, and none comes back as a second worker."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import members_of, package_of, start_runtime, tar_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtime_process import Runtime

SHARD = tar_of([(f"{i}.txt", b"x") for i in range(4)])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def leave_children(sample: dict[str, Any], args: str) -> Any:
    """Starts a child in each way that hides it from its parent's group, and notes their pids."""
    import os
    import subprocess
    from pathlib import Path

    how, _, folder = args.partition(" ")
    pids = [subprocess.Popen(["sleep", "1000"], start_new_session=True).pid]
    shown = subprocess.run(["sh", "-c", "setsid sleep 1000 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
    pids.append(int(shown.stdout))
    lives_on, told = os.pipe()
    if os.fork() == 0:  # a daemon, by the book
        os.setsid()
        if (daemon := os.fork()) == 0:
            os.execve("/bin/sleep", ["sleep", "1000"], {})
        os.write(told, b"%d" % daemon)
        os._exit(0)
    pids.append(int(os.read(lives_on, 100)))
    with Path(f"{folder}/{os.getpid()}").open("w") as file:
        file.write(" ".join(map(str, pids)))
    if how == "die":
        os._exit(3)
    return sample


def noted(folder: Path) -> list[int]:
    return [int(pid) for file in folder.iterdir() for pid in file.read_text().split()]


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "notes"
    folder.mkdir()
    yield folder
    for pid in noted(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_what_a_dead_worker_had_started_does_not_pile_up(start: Callable[..., Runtime], notes: Path) -> None:
    runtime = start(leave_children)
    for _ in range(3):
        assert runtime.run(SHARD, args=f"die {notes}").lost
        assert eventually(lambda: not any(map(alive, noted(notes))))
    assert len(noted(notes)) == 9
    assert eventually(lambda: len(runtime.workers()) == 1)


def test_what_a_living_worker_has_started_is_left_alone(start: Callable[..., Runtime], notes: Path) -> None:
    runtime = start(leave_children, options={"workers": 2})
    one = tar_of([("0.txt", b"")])
    assert runtime.run(one, args=f"live {notes}").stats.samples_out == 1
    (started,) = notes.iterdir()
    other = next(pid for pid in runtime.workers() if str(pid) != started.name)
    os.kill(other, signal.SIGKILL)
    assert eventually(lambda: len(runtime.workers()) == 2 and other not in runtime.workers())
    assert all(map(alive, noted(notes)))


def test_nothing_that_user_code_started_outlives_the_runtime(tmp_path: Path, notes: Path) -> None:
    with start_runtime(tmp_path / "run", package_of(leave_children)) as runtime:
        runtime.wait_for("ready")
        assert runtime.run(SHARD, args=f"live {notes}").stats.samples_out == 4
        assert all(map(alive, noted(notes)))
    assert runtime.process.returncode == 0
    assert not any(map(alive, noted(notes)))


class StartsAHelper:
    """Its module starts a process when it is loaded, before there are workers."""

    def __reduce__(self) -> Any:
        code = "__import__('os').environ.update(HELPER=str(__import__('subprocess').Popen(['sleep', '1000']).pid))"
        return eval, (f"({code}, lambda sample: {{'txt': __import__('os').environ['HELPER']}})[1]",)


def test_what_loading_started_serves_all_workers_and_ends_with_the_runtime(tmp_path: Path) -> None:
    import cloudpickle
    from runtime_process import package_of_bytes

    with start_runtime(tmp_path / "run", package_of_bytes(cloudpickle.dumps(StartsAHelper()))) as runtime:
        runtime.wait_for("ready")
        helper = int(dict(members_of(runtime.run(SHARD).output))["0.txt"])
        (worker,) = (pid for pid in runtime.workers() if pid != helper)
        os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: len(set(runtime.workers()) - {helper, worker}) == 1)
        assert alive(helper)
    assert not alive(helper)


def fork_and_return(sample: dict[str, Any], args: str) -> Any:
    import os

    child = os.fork()
    if child == 0 and args == "raise":
        os.execv("/no/such/program", ["program"])
    if child == 0 and args == "leave":
        raise SystemExit(0)
    return {"txt": b"x"}


@pytest.mark.parametrize("how", ["return", "raise", "leave"])
def test_a_function_that_forks_and_returns_twice_writes_each_sample_once(
    start: Callable[..., Runtime], how: str
) -> None:
    runtime = start(fork_and_return, on_error="skip")
    conversation = runtime.run(SHARD, args=how)
    assert [name for name, _ in members_of(conversation.output)] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert conversation.stats.samples_out == 4
    assert "forked" in runtime.log


def chunks_that_fork(data: bytes) -> Any:
    import os

    for _ in range(3):
        os.fork()
        yield b"x"


def test_a_generator_that_forks_writes_each_chunk_once(start: Callable[..., Runtime]) -> None:
    assert start(chunks_that_fork, kind="bytes").run(b"-").output == b"xxx"


class ForksInSetup:
    def setup(self) -> None:
        import os

        os.fork()

    def __call__(self, sample: dict[str, Any]) -> Any:
        return sample


class ForksWhenLoaded:
    def __reduce__(self) -> Any:
        return eval, ("(__import__('os').fork(), lambda sample: sample)[1]",)


def test_a_fork_in_setup_or_while_loading_makes_no_second_worker(tmp_path: Path) -> None:
    import cloudpickle
    from runtime_process import package_of_bytes

    packages = [package_of(ForksInSetup), package_of_bytes(cloudpickle.dumps(ForksWhenLoaded()))]
    for number, package in enumerate(packages):
        with start_runtime(tmp_path / str(number), package) as runtime:
            runtime.wait_for("ready")
            assert runtime.run(SHARD).stats.samples_out == 4
            assert eventually(lambda runtime=runtime: sum(map(alive, runtime.workers())) == 1)
            (worker,) = filter(alive, runtime.workers())
            assert not [pid for pid in children_of(worker) if alive(pid)]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def leave_a_zombie(sample: dict[str, Any]) -> dict[str, Any]:
    child = os.fork()
    if not child:
        os.fork()  # its parent ends at once, so its own end is the worker's to hear of
        os._exit(0)
    os.waitpid(child, 0)
    return sample | {"txt": str(os.getpid())}


def test_no_zombie_outlives_an_idle_worker_for_long(start_shared: Callable[..., Runtime]) -> None:
    runtime = start_shared(leave_a_zombie, options={"workers": 1})
    conversation = runtime.run(tar_of([("0.txt", b"x")]))
    ((_, pid),) = members_of(bytes(conversation.output))

    def zombies() -> list[str]:
        pids = Path(f"/proc/{int(pid)}/task/{int(pid)}/children").read_text().split()
        return [pid for pid in pids if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"]

    deadline = time.monotonic() + 60
    while zombies():
        assert time.monotonic() < deadline
        time.sleep(0.1)
