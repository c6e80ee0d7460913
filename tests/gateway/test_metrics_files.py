"""Numbers in files that a full disk can't turn into SIGBUS."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from prometheus_client.mmap_dict import MmapedDict

from shardgate_gateway.metrics_files import FIRST_BYTES, AllocatedDict

if TYPE_CHECKING:
    from pathlib import Path


def names(count: int) -> list[str]:
    return [f"{number:05d}" + "\N{BLACK STAR}" * (number % 50) for number in range(count)]


def fill(numbers: AllocatedDict, count: int) -> None:
    for at, name in enumerate(names(count)):
        assert numbers.read_value(name) == (0.0, 0.0)
        numbers.write_value(name, at, 1.0)


def content(path: Path) -> dict[str, float]:
    """As whoever answers a scrape reads it."""
    return {key.rstrip(): value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))}


def has_blocks(path: Path) -> bool:
    stat = path.stat()
    return stat.st_blocks * 512 >= stat.st_size


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)


def test_every_page_has_its_block_before_it_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "counter_0.db"
    numbers = AllocatedDict(str(path))
    assert has_blocks(path)
    fill(numbers, 2000)
    assert path.stat().st_size > FIRST_BYTES
    assert has_blocks(path)
    assert content(path) == {name: at for at, name in enumerate(names(2000))}
    numbers.close()


def test_a_replacement_continues_the_numbers_and_fills_holes(tmp_path: Path) -> None:
    path = tmp_path / "counter_0.db"
    old = MmapedDict(str(path))
    old.write_value("a", 5.0, 0.0)
    old.close()
    assert not has_blocks(path)
    numbers = AllocatedDict(str(path))
    assert has_blocks(path)
    assert numbers.read_value("a") == (5.0, 0.0)
    numbers.close()


def test_a_process_counts_on_in_memory_where_there_is_no_room(tmp_path: Path, full_disk: None) -> None:
    numbers = AllocatedDict(str(tmp_path / "counter_0.db"))
    fill(numbers, 2000)
    assert [numbers.read_value(name)[0] for name in names(2000)] == list(range(2000))
    assert not list(tmp_path.iterdir()), "a scrape would fail at a file without values"
    numbers.close()


def test_a_process_counts_on_in_memory_where_its_file_cannot_grow(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "counter_0.db"
    numbers = AllocatedDict(str(path))
    fill(numbers, 3)
    request.getfixturevalue("full_disk")
    for name in names(2000)[3:]:
        numbers.write_value(name, 7.0, 0.0)
    assert [numbers.read_value(name)[0] for name in names(4)] == [0, 1, 2, 7]
    assert path.stat().st_size == FIRST_BYTES
    assert content(path)[names(1)[0]] == 0
    numbers.close()


def test_a_folder_that_is_gone_costs_numbers_only(tmp_path: Path) -> None:
    numbers = AllocatedDict(str(tmp_path / "gone" / "counter_0.db"))
    numbers.write_value("a", 1.0, 0.0)
    assert numbers.read_value("a") == (1.0, 0.0)
    numbers.close()
