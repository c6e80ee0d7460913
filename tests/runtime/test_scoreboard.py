from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from shardgate_runtime.parent import describe_death
from shardgate_runtime.scoreboard import DEATHS, KILLED_TOGETHER, Death, Scoreboard, State

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DEATH = Death(3, "a/ä", "killed by SIGSEGV", deterministic=True)


def test_a_child_process_sees_and_is_seen() -> None:
    board = Scoreboard(2)
    pid = os.fork()
    if not pid:
        board.slots[1].begin_request("r1")
        board.slots[1].begin_sample(7, "x" * 1000)
        board.slots[1].write_note("why")
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.slots[1].state()[:2] == (pid, State.BUSY)
    assert board.slots[1].request() == "r1"
    index, began, key = board.slots[1].sample()
    assert (index, key) == (7, "x" * 255)
    assert began > 0
    assert board.slots[1].note() == "why"
    assert board.slots[0].state()[1] is State.EMPTY


def test_a_death_is_told_once_and_only_to_its_request() -> None:
    board = Scoreboard(1)
    board.record_death("r1", DEATH)
    assert board.take_death("r2", board.slots[0]) is None
    assert board.take_death("r1", board.slots[0]) == DEATH
    assert board.take_death("r1", board.slots[0]) is None


def test_old_deaths_are_forgotten() -> None:
    board = Scoreboard(1)
    for number in range(DEATHS + 1):
        board.record_death(f"r{number}", DEATH)
    assert board.take_death("r0", board.slots[0]) is None
    assert board.take_death("r1", board.slots[0]) == DEATH


def test_a_death_that_is_about_to_be_recorded_is_waited_for() -> None:
    board = Scoreboard(2)
    board.slots[0].begin_request("r1")
    threading.Timer(0.05, board.record_death, ("r1", DEATH)).start()
    assert board.take_death("r1", board.slots[1]) == DEATH


def test_a_request_that_is_still_worked_on_elsewhere_has_no_death() -> None:
    board = Scoreboard(2)
    board.slots[0].begin_request("r1")
    assert board.take_death("r1", board.slots[1]) is None


def test_what_a_whole_container_was_doing_when_it_was_killed_is_told_by_the_next(tmp_path: Path) -> None:
    board = Scoreboard(2, tmp_path / "board")
    board.slots[0].begin_request("r1")
    board.slots[0].begin_sample(7, "cat")
    board.slots[1].begin_request("r2")
    board.record_death("r3", DEATH)
    again = Scoreboard(2, tmp_path / "board")
    assert again.take_death("r1", again.slots[1]) == Death(7, "cat", KILLED_TOGETHER, deterministic=False)
    assert again.take_death("r2", again.slots[1]) is None
    assert again.take_death("r3", again.slots[1]) == DEATH
    assert {slot.state()[1] for slot in again.slots} == {State.EMPTY}


def test_another_number_of_workers_starts_with_an_empty_board(tmp_path: Path) -> None:
    Scoreboard(2, tmp_path / "board").record_death("r1", DEATH)
    board = Scoreboard(3, tmp_path / "board")
    assert board.take_death("r1", board.slots[0]) is None


def test_deaths_are_put_in_words() -> None:
    assert describe_death(11) == ("killed by SIGSEGV", True)
    assert describe_death(9) == ("killed by SIGKILL (out of memory?)", False)
    assert describe_death(15) == ("killed by SIGTERM", False)
    assert describe_death(72 << 8) == ("its code closed file descriptors that belong to the worker", True)
    assert describe_death(3 << 8) == ("exit code 3", True)
    assert describe_death(64 - 2) == ("killed by signal 62", False)


def test_a_scoreboard_on_a_full_disk_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of a file without blocks would be SIGBUS for the runtime."""

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    board = Scoreboard(2, tmp_path / "board")
    board.slots[1].begin_sample(3, "key")
    assert board.slots[1].sample()[2] == "key"


def test_every_page_of_a_scoreboard_has_its_block_before_it_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "board"
    for workers in (2, 40):
        Scoreboard(workers, file)
        assert file.stat().st_blocks * 512 >= file.stat().st_size
    size = file.stat().st_size
    os.truncate(file, 0)
    os.truncate(file, size)
    Scoreboard(40, file)
    assert file.stat().st_blocks * 512 >= file.stat().st_size
