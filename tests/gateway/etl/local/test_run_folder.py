"""The run folder, where user code may write what it likes and processes may die in the middle of anything."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from etl import Etl, etl_in, eventually, pid_exists
from shards import shard

from shardgate_gateway.errors import LocalStorageError, TransformStartError
from shardgate_gateway.etl.local.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path


def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def where(_data: bytes) -> bytes:
    from pathlib import Path

    return bytes(Path.cwd())


def litter(_data: bytes) -> bytes:
    """Writes files by names that mean something to us, and modules that would be found before real ones."""
    from pathlib import Path

    for name in ("status.json", "package", "lock", "start.lock", "stopped", "in-use", "scoreboard", "worker.sock"):
        Path(name).write_text("[]")
    for name in ("json.py", "logging.py", "shardgate_runtime.py"):
        Path(name).write_text("raise SystemExit('found in the working directory')")
    return b"done"


def folder_of(etl: Etl, transform_id: str) -> RunDir:
    return etl.runner._runtime(transform_id).folder


async def test_user_code_does_not_run_in_the_run_folder(etl: Etl) -> None:
    etl.put("x", b"-")
    record = await etl.register(where, name="where", kind="bytes")
    assert await etl.read(record, "x") == os.fsencode(folder_of(etl, record.id).work)


async def test_files_that_user_code_leaves_in_its_working_directory_change_nothing(etl: Etl, tmp_path: Path) -> None:
    etl.put("x", b"-")
    record = await etl.register(litter, name="litter", kind="bytes")
    assert await etl.read(record, "x") == b"done"
    assert (await etl.runner.status(record.id)).state == "ready"
    await etl.runner.stop(record)
    await etl.runner.start(record)
    async with etl_in(tmp_path) as other:
        assert await other.read(record, "x") == b"done"


DAMAGES = {
    "no JSON": b"{",
    "a list": b"[]",
    "empty": b"",
    "huge": b'{"state": "ready", "message": "' + b"x" * (1 << 20) + b'"}',
    "deep": b"[" * 200_000,
    "another state": b'{"state": "happy"}',
    "a date that overflows": b'{"state": "failed", "since": 1e300}',
    "no number": b'{"state": "failed", "since": NaN}',
    "a pid that is text": b'{"state": "ready", "pid": "../../1"}',
    "a message that is a number": b'{"state": "failed", "message": 7}',
    "half a character": rb'{"state": "failed", "message": "\ud800"}',
    "another machine": b'{"state": "ready", "listen": "tcp:10.0.0.1:80"}',
    "a port that is none": b'{"state": "ready", "listen": "tcp:127.0.0.1:99999"}',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("data", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_status_is_a_failure_of_that_transform_alone(etl: Etl, data: bytes) -> None:
    folder = RunDir(etl.folder / "state" / "run" / "some-transform")
    folder.create()
    (folder.path / "status.json").write_bytes(data)
    status = await etl.runner.status("some-transform")
    assert status.state == "failed"
    assert "status.json" in status.message
    assert not folder.answers() or folder.status().address == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "unreadable"])
@pytest.mark.parametrize("name", ["status.json", "package", "lock", "start.lock"])
async def test_what_is_put_in_the_place_of_a_file_blocks_nobody_and_is_replaced(etl: Etl, name: str, kind: str) -> None:
    etl.put("a.tar", shard(1))
    record = await etl.register(unchanged, name="unchanged")
    folder = folder_of(etl, record.id)
    folder.create()
    path = folder.path / name
    if kind == "folder":
        (path / "in it").mkdir(parents=True)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.touch(mode=0)
    elif name not in {"lock", "start.lock"}:
        path.symlink_to("/dev/zero")
    assert (await etl.runner.status(record.id)).state in {"failed", "starting"}
    assert await etl.read(record, "a.tar")
    await etl.runner.remove(record.id)
    assert not folder.path.exists()


async def test_a_status_that_user_code_damages_does_not_keep_other_gateways_out(etl: Etl, tmp_path: Path) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    whole = await etl.read(record, "a.tar")
    (folder_of(etl, record.id).path / "status.json").write_text("[]")
    async with etl_in(tmp_path) as other:
        assert await other.read(record, "a.tar") == whole
    assert await etl.read(record, "a.tar") == whole


async def test_a_status_that_names_a_foreign_pid_has_nobody_else_killed(etl: Etl, tmp_path: Path) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    await etl.read(record, "a.tar")
    runtime = etl.runtime_pid(record)
    bystander = await asyncio.create_subprocess_exec("sleep", "1000")
    status = folder_of(etl, record.id).path / "status.json"
    status.write_text(status.read_text().replace(str(runtime), str(bystander.pid)))
    async with etl_in(tmp_path) as other:
        await other.runner.stop(record)
    await eventually(lambda: not pid_exists(runtime))  # a dead process is there until its parent looks
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def test_a_runtime_without_a_status_can_be_stopped_by_another_gateway(etl: Etl, tmp_path: Path) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    await etl.read(record, "a.tar")
    runtime = etl.runtime_pid(record)
    (folder_of(etl, record.id).path / "status.json").unlink()  # as before it has said anything
    async with etl_in(tmp_path) as other, asyncio.timeout(30):
        await other.runner.stop(record)
    assert not pid_exists(runtime)


@pytest.mark.parametrize("damage", [b"", b"another", None])
async def test_a_damaged_package_is_written_again_at_the_next_start(etl: Etl, damage: bytes | None) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    whole = await etl.read(record, "a.tar")
    folder = folder_of(etl, record.id)
    os.kill(etl.runtime_pid(record), signal.SIGKILL)
    await eventually(lambda: not folder.runtime_lives())
    package = folder.path / "package"
    package.write_bytes(package.read_bytes()[:-1] if damage is None else damage)
    assert await etl.read(record, "a.tar") == whole


async def test_what_a_killed_writer_of_the_package_left_is_removed(etl: Etl) -> None:
    record = await etl.register(unchanged, name="unchanged")
    folder = folder_of(etl, record.id)
    folder.create()
    left = folder.path / "package.0123456789abcdef"
    left.write_bytes(b"half")
    await etl.runner.ensure(record)
    assert not left.exists()


async def test_a_gateway_that_lost_its_runtime_to_another_one_does_not_look_for_it_at_each_request(
    etl: Etl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    await etl.read(record, "a.tar")
    async with etl_in(tmp_path) as other:
        os.kill(etl.runtime_pid(record), signal.SIGKILL)
        await eventually(lambda: not folder_of(etl, record.id).runtime_lives())
        await other.read(record, "a.tar")
        await etl.read(record, "a.tar")  # finds the other one's
        looks: list[RunDir] = []
        real = RunDir.runtime_lives
        monkeypatch.setattr(RunDir, "runtime_lives", lambda self: looks.append(self) or real(self))
        for _ in range(3):
            await etl.read(record, "a.tar")
        assert not looks


async def test_a_doubt_about_a_runtime_that_lives_does_not_lose_it(tmp_path: Path) -> None:
    async with etl_in(tmp_path) as etl:
        record = await etl.register(unchanged, name="unchanged")
        await etl.runner.ensure(record)
        pid = etl.runtime_pid(record)
        etl.runner._runtime(record.id).doubt()
        await etl.runner.ensure(record)
        assert etl.runtime_pid(record) == pid
    assert not pid_exists(pid)


async def test_a_clock_that_was_set_back_does_not_make_an_old_failure_last(etl: Etl) -> None:
    record = await etl.register(unchanged, name="unchanged")
    folder = folder_of(etl, record.id)
    folder.create()
    folder.write_status("failed", "long ago")
    status = folder.path / "status.json"
    said = folder.status()
    assert said is not None
    status.write_text(status.read_text().replace(str(said.since), str(time.time() + 3600)))
    await etl.runner.ensure(record)


async def test_a_start_in_another_process_survives_the_removal_of_the_transform(etl: Etl, tmp_path: Path) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    async with etl_in(tmp_path) as other:
        for _ in range(3):
            await asyncio.gather(etl.runner.remove(record.id), other.runner.ensure(record))
            assert await other.read(record, "a.tar")
        await other.runner.remove(record.id)
    assert not folder_of(etl, record.id).path.exists()


async def test_a_full_disk_under_the_run_folder_is_no_fault_of_the_transform(
    etl: Etl, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await etl.register(unchanged, name="unchanged")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("create", "set_stopped", "write_package", "write_status"):
        with monkeypatch.context() as patch:
            patch.setattr(RunDir, name, full)
            with pytest.raises(LocalStorageError, match="No space left") as raised:
                await (etl.runner.ensure(record) if name == "write_package" else etl.runner.stop(record))
            assert "state.dir" in raised.value.hint
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "set_stopped", full)
        with pytest.raises(LocalStorageError, match="No space left"):
            await etl.runner.start(record)
    await etl.runner.start(record)


async def test_a_start_that_waits_too_long_for_another_process_says_so_and_leaves_the_status_alone(
    tmp_path: Path,
) -> None:
    async with etl_in(tmp_path, start_timeout=0.2) as etl:
        record = await etl.register(unchanged, name="unchanged")
        folder = folder_of(etl, record.id)
        folder.create()
        with folder.try_start_lock() as locked:
            assert locked
            with pytest.raises(TransformStartError, match="another process"):
                await etl.runner.ensure(record)
        assert folder.status() is None
