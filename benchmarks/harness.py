"""Processes, their CPU time and memory, and interleaved rounds: what every benchmark stands on.

The problem: machines differ, and one machine differs from minute to minute. The idea: never report an absolute number
as a result. Ours and the peer are measured in turns (A B, B A, A B, ...) so that drift hits both, each turn gives one
ratio, and the median of the ratios is the result; its spread stands beside it.

CPU time is read from `/proc/PID/stat` for a whole process tree: live processes and, through their parents, those that
were reaped. Its resolution is a clock tick (10 ms), so a turn must burn a good part of a second. What the kernel does
in softirq for a loopback packet is mostly charged to the sender; ours and the peer are charged alike.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TICK = 1 / os.sysconf("SC_CLK_TCK")
GIB = 1 << 30
T = TypeVar("T")


class ProcessStat(NamedTuple):
    """The part of `/proc/PID/stat` that counts: parent, and CPU seconds of the process and of its reaped children."""

    parent: int
    cpu: float


def process_stat(pid: int) -> ProcessStat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(int(fields[1]), sum(map(int, fields[11:15])) * TICK)


def process_tree(root: int) -> dict[int, ProcessStat]:
    """The live processes that descend from `root`, itself included."""
    everyone = {
        int(entry): stat
        for entry in os.listdir("/proc")  # noqa: PTH208  names are all we need
        if entry.isdigit() and (stat := process_stat(int(entry)))
    }
    children: dict[int, list[int]] = {}
    for pid, stat in everyone.items():
        children.setdefault(stat.parent, []).append(pid)
    found: dict[int, ProcessStat] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in everyone:
            found[pid] = everyone[pid]
            waiting.extend(children.get(pid, ()))
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of one process; what it maps from files and shares with others is counted too."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)


class Server:
    """A process tree that runs while it is measured."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu(self) -> float:
        """CPU seconds of the tree so far."""
        return sum(stat.cpu for stat in process_tree(self.pid).values())

    def cpu_since(self, before: float) -> float:
        """CPU seconds since `cpu()` said `before`; at least the tick that is the clock's resolution."""
        return max(TICK, self.cpu() - before)

    def pids(self, *, without: str = "") -> list[int]:
        """The tree's processes, but for those whose command line contains the word `without`, and their children."""
        tree = process_tree(self.pid)
        outside = {pid for pid in tree if without and without in command_line(pid)}
        return [pid for pid in tree if pid not in outside and tree[pid].parent not in outside]

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait for `ready`; raises RuntimeError with the server's output when it dies or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._process.args!r} did not become ready:\n{self.output()[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def server(command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run `command` in a session of its own, until the block or this process ends; its output goes to `log`."""
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "TERM", "--", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, start_new_session=True
        )
    running = Server(process, log)
    try:
        yield running
    finally:
        running.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def recycle_memory(folder: Path, size: int) -> None:
    """Write a file of `size` bytes and remove it, so that the next one finds memory that was in use a moment ago.

    A virtual machine gives memory that it does not use back to its host, and getting it again costs ten times what
    writing to it costs. Without this, whoever is measured after an idle moment pays for that.
    """
    scratch, block = folder / "scratch", bytes(1 << 20)
    with scratch.open("wb", buffering=0) as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
    scratch.unlink()


class Cost(NamedTuple):
    """What one turn cost the server: CPU seconds of its tree, wall seconds of the load."""

    cpu: float
    seconds: float


def cost(running: Server, load: Callable[[], object]) -> Cost:
    before, start = running.cpu(), time.perf_counter()
    load()
    seconds = time.perf_counter() - start
    return Cost(running.cpu_since(before), seconds)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Turns of ours and theirs, and what they say."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True) if b]

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in zip(self.ours, self.theirs, strict=True)]

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.ours), statistics.median(self.theirs)


def in_turns(rounds: int, ours: Callable[[], T], theirs: Callable[[], T]) -> list[tuple[T, T]]:
    """Run both once per round, in alternating order; pairs of (ours, theirs)."""
    pairs: list[tuple[T, T]] = []
    for number in range(rounds):
        if number % 2:
            second = theirs()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, theirs()))
    return pairs


def compare(pairs: Sequence[tuple[T, T]], value: Callable[[T], float]) -> Comparison:
    return Comparison(tuple(value(a) for a, _ in pairs), tuple(value(b) for _, b in pairs))
