"""A log file is cut while others append to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardgate_gateway.etl.local import logfile
from shardgate_gateway.etl.local.logfile import LogFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 1000)
    monkeypatch.setattr(logfile, "KEPT_BYTES", 200)


def test_the_tail_of_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert LogFile(tmp_path / "none.log").tail(10) == ""


def test_the_last_lines_are_given(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.log")
    with log.open() as file:
        file.write(b"one\ntwo\nthree")
    assert log.tail(2) == "two\nthree"
    assert log.tail(0) == ""


def test_a_file_that_grew_is_cut_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    with log.open() as file:
        for number in range(1000):
            file.write(b"line %d\n" % number)
            file.flush()
            log.cut()
            assert (tmp_path / "a.log").stat().st_size <= 1020
    assert log.tail(3) == "line 997\nline 998\nline 999\n"
    assert len(log.tail(1000)) <= 400
