"""A log file never grows beyond its limit, whatever is printed, and nobody waits for its disk."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import subprocess
import sys
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from etl import Etl, eventually, pid_exists

from shardgate_gateway.errors import GatewayError
from shardgate_gateway.etl.local import log_writer, logfile
from shardgate_gateway.etl.local.logfile import LogFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 100_000)
    monkeypatch.setattr(logfile, "KEPT_BYTES", 20_000)


def write(log: LogFile, data: bytes) -> None:
    """Through the log's writer, as a runtime does."""
    source, output = os.pipe()
    writer = log.start_writer(source, os.environ)
    os.close(source)
    with os.fdopen(output, "wb") as pipe:
        pipe.write(data)
    assert writer.wait(30) == 0


def test_the_tail_of_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "none.log").tail(10) == ""


def test_the_last_lines_are_given(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.log")
    write(log, b"one\ntwo\nthree")
    assert log.tail(2) == "two\nthree"
    assert log.tail(0) == ""
    write(log, b" and four")
    assert log.tail(1) == "three and four"


def test_nobody_else_may_read_a_log(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.log")
    write(log, b"x" * 300_000)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "logs").iterdir()} == {0o600}
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_full_is_cut_and_its_end_is_kept(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    write(log, b"".join(b"line %d\n" % number for number in range(100_000)))
    assert (tmp_path / "a.log").stat().st_size <= 100_000
    assert (tmp_path / "a.log.1").stat().st_size == 20_000
    assert log.tail(3) == "line 99997\nline 99998\nline 99999\n"
    lines = log.tail(100_000).splitlines()[1:]
    assert lines == [f"line {number}" for number in range(100_000 - len(lines), 100_000)]


async def test_a_flood_of_lines_never_makes_the_log_larger_than_its_limit(etl: Etl) -> None:
    def flood(_data: bytes) -> bytes:
        import os

        for _ in range(400):
            os.write(1, b"x" * 99_999 + b"\n")
        os.write(1, b"the end\n")
        return b"done"

    etl.put("x", b"-")
    record = await etl.register(flood, name="flood", kind="bytes")
    largest = 0
    folder = etl.folder / "state" / "logs"

    def looks() -> bool:
        nonlocal largest
        largest = max(largest, *(path.stat().st_size for path in folder.glob("*.log")), 0)
        return reading.done()

    reading = asyncio.create_task(etl.read(record, "x"))
    await eventually(folder.exists)
    await eventually(looks, seconds=60)
    assert await reading == b"done"
    assert 0 < largest <= 100_000
    await etl.runner.stop(record)
    assert "the end" in await etl.runner.logs(record.id, tail=3)


async def test_the_last_words_of_a_runtime_that_dies_are_in_its_log(etl: Etl) -> None:
    def die(_data: bytes) -> bytes:
        import os
        import signal

        os.write(2, b"these are my last words\n")
        os.kill(os.getppid(), signal.SIGKILL)
        return b""

    etl.put("x", b"-")
    record = await etl.register(die, name="die", kind="bytes")
    with suppress(GatewayError):  # the result may have been sent a moment before
        await etl.read(record, "x")
    await etl.runner.stop(record)
    assert "these are my last words" in await etl.runner.logs(record.id, tail=50)


async def test_what_is_written_while_somebody_looks_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.log"
    log = LogFile(path)
    numbers = iter(range(20))
    size_of = logfile._size

    def grows(looked_at: Path) -> int:
        size = size_of(looked_at)
        if looked_at == path:
            with path.open("a") as file:
                file.writelines(f"line {number}\n" for number in itertools.islice(numbers, 3))
        return size

    monkeypatch.setattr(logfile, "_size", grows)
    monkeypatch.setattr(logfile, "LOOK_SECONDS", 0.001)
    path.write_text("before\n")
    told = b""
    async with aclosing(log.follow(100)) as parts, asyncio.timeout(30):
        async for part in parts:
            told += part
            if b"line 19\n" in told:
                break
    assert told.decode().splitlines() == ["before", *(f"line {number}" for number in range(20))]


def test_a_full_disk_loses_lines_and_blocks_nobody(tmp_path: Path) -> None:
    """A limit of the file's size stands for the disk's."""
    source, output = os.pipe()
    command = [sys.executable, log_writer.__file__, str(tmp_path / "a.log"), "1000000", "1000"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    writer = subprocess.Popen(command, stdin=source, preexec_fn=limit)  # noqa: PLW1509 (no threads here)
    os.close(source)
    with os.fdopen(output, "wb") as pipe:
        pipe.write(b"x" * 1_000_000)
    assert writer.wait(30) == 0
    assert (tmp_path / "a.log").stat().st_size == 1000


def test_a_log_that_cannot_be_opened_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.log").mkdir()
    write(LogFile(tmp_path / "a.log"), b"x" * 1_000_000)


async def test_the_logs_writer_ends_with_its_runtime(etl: Etl) -> None:
    def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    record = await etl.register(unchanged, name="unchanged")
    await etl.runner.ensure(record)
    process = etl.runner._runtime(record.id)._process
    assert process is not None
    writer = process._log_writer.pid
    os.kill(process.pid, signal.SIGKILL)
    await eventually(lambda: not pid_exists(writer))
