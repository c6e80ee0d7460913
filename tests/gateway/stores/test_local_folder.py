"""What only a folder has: links, other writers, hidden uploads."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from shardgate_gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    GenerationChanged,
    LocalStorageError,
    NotFound,
    PreconditionFailed,
)
from shardgate_gateway.stores import local_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


DATA = os.urandom(3_500_000)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


@pytest.fixture
def store(folder, open_bucket):
    return open_bucket(folder)


async def test_a_file_changed_while_it_is_read_is_noticed(store, folder):
    (folder / "a").write_bytes(DATA)
    stream = await store.get("a")
    chunks = aiter(stream.chunks)
    await anext(chunks)
    with (folder / "a").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(GenerationChanged, match="a was written to") as caught:
        async for _ in chunks:
            pass
    assert "rename" in caught.value.hint
    await stream.aclose()


async def test_a_file_cut_while_it_is_read_is_noticed(store, folder):
    (folder / "a").write_bytes(DATA)
    stream = await store.get("a")
    chunks = aiter(stream.chunks)
    await anext(chunks)
    os.truncate(folder / "a", 10)
    with pytest.raises(GenerationChanged):
        async for _ in chunks:
            pass
    await stream.aclose()


async def test_a_file_replaced_by_rename_is_read_to_its_end(store, folder, helpers):
    (folder / "a").write_bytes(DATA)
    stream = await store.get("a")
    (folder / "new").write_bytes(b"new")
    (folder / "new").rename(folder / "a")
    assert await helpers["drain"](stream) == DATA


async def test_links_within_the_folder_count_and_links_out_of_it_do_not(store, folder, tmp_path, helpers):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    (folder / "real").mkdir()
    (folder / "real" / "x").write_bytes(b"x")
    (folder / "file-link").symlink_to(folder / "real" / "x")
    (folder / "folder-link").symlink_to("real")
    (folder / "out-file").symlink_to(tmp_path / "secret")
    (folder / "out-folder").symlink_to(tmp_path / "outside")
    (folder / "broken").symlink_to("nothing")
    (folder / "circle").symlink_to(".")
    (folder / "itself").symlink_to("itself")
    (folder / "real" / "up").symlink_to(folder)
    assert (await helpers["list_all"](store))[0] == ["file-link", "folder-link/x", "real/x"]
    for key in ("file-link", "folder-link/x", "real/x"):
        assert await helpers["drain"](await store.get(key)) == b"x"
    for key in ("out-file", "out-folder/x"):
        with pytest.raises(Forbidden, match="leads out") as caught:
            await store.get(key)
        assert "secret" not in caught.value.message
        with pytest.raises(Forbidden):
            await store.put(key, helpers["chunked"](b"1"))
        with pytest.raises(Forbidden):
            await store.delete(key)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    with pytest.raises(NotFound):
        await store.get("broken")


async def test_the_folder_itself_may_be_a_link(folder, tmp_path, open_bucket, helpers):
    (folder / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(folder)
    store = open_bucket(tmp_path / "link")
    assert await helpers["drain"](await store.get("a")) == b"1"
    assert (await helpers["list_all"](store))[0] == ["a"]


async def test_what_is_no_regular_file_is_not_there(store, folder, helpers):
    os.mkfifo(folder / "pipe")
    (folder / "empty").mkdir()
    for key in ("pipe", "empty"):
        with pytest.raises(NotFound):
            await asyncio.wait_for(store.get(key), 10)
    assert await helpers["list_all"](store) == ([], [])
    assert await helpers["list_all"](store, delimiter=True) == ([], [])


async def test_names_that_are_no_keys_are_not_listed(store, folder, helpers):
    (folder / "good").write_bytes(b"1")
    (folder / "line\nbreak").write_bytes(b"1")
    os.mknod(os.fsencode(folder) + b"/\xff")
    assert (await helpers["list_all"](store))[0] == ["good"]


async def test_an_upload_in_progress_is_neither_listed_nor_readable(store, folder, helpers):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body():
        yield b"half"
        begun.set()
        await go_on.wait()

    put = asyncio.create_task(store.put("a", body()))
    await begun.wait()
    (hidden,) = names(folder)
    assert await helpers["list_all"](store) == ([], [])
    with pytest.raises(BadRequest, match="can't name an object"):
        await store.get(hidden)
    go_on.set()
    await put
    assert names(folder) == ["a"]


async def test_a_cancelled_put_leaves_nothing(store, folder):
    begun = asyncio.Event()

    async def body():
        yield DATA
        begun.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(store.put("deep/a", body()))
    await begun.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert [path for path in folder.rglob("*") if path.is_file()] == []


async def test_delete_removes_the_folders_it_leaves_empty(store, folder, helpers):
    await store.put("a/b/c", helpers["chunked"](b"1"))
    await store.put("a/d", helpers["chunked"](b"1"))
    await store.delete("a/b/c")
    assert names(folder / "a") == ["d"]
    await store.delete("a/d")
    assert names(folder) == []
    await store.put("a", helpers["chunked"](b"1"))


async def test_puts_and_deletes_of_one_folder_do_not_disturb_each_other(store, helpers):
    async def cycle(number):
        for _ in range(30):
            await store.put(f"shared/{number}", helpers["chunked"](b"1"))
            await store.delete(f"shared/{number}")
        return number

    assert await asyncio.gather(*map(cycle, range(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, LocalStorageError),
        (errno.EIO, LocalStorageError),
        (errno.EACCES, Forbidden),
        (errno.EROFS, Forbidden),
        (errno.ENAMETOOLONG, BadRequest),
    ],
)
async def test_what_the_file_system_refuses_is_said_in_our_words(store, folder, helpers, monkeypatch, number, error):
    def refuse(fd, chunk):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local_folder, "_write_all", refuse)
    with pytest.raises(error, match="bucket/a"):
        await store.put("a", helpers["chunked"](DATA))
    assert names(folder) == []


async def test_a_name_longer_than_the_file_system_takes_is_refused(store, helpers):
    with pytest.raises(BadRequest) as caught:
        await store.put("x" * 300, helpers["chunked"](b"1"))
    assert "255" in caught.value.hint


async def test_a_folder_that_is_not_there_is_not_found_and_made_by_a_put(tmp_path, open_bucket, helpers):
    store = open_bucket(tmp_path / "later")
    with pytest.raises(NotFound):
        await store.get("a")
    assert await helpers["list_all"](store) == ([], [])
    await store.put("a", helpers["chunked"](b"1"))
    assert stat.S_ISREG((tmp_path / "later" / "a").stat().st_mode)


async def test_streams_given_up_leave_no_descriptor(store, folder):
    (folder / "a").write_bytes(DATA)
    before = len(names(Path("/proc/self/fd")))
    for _ in range(20):
        stream = await store.get("a")
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(Exception, match="has the etag"):
            await store.get("a", if_match="x")
    assert len(names(Path("/proc/self/fd"))) == before


async def test_a_tree_as_deep_as_a_key_can_be_is_listed(store, folder, helpers):
    key = "/".join(["d"] * 400)
    await store.put(key, helpers["chunked"](b"1"))
    assert await helpers["list_all"](store) == ([key], [])


def write_with_time(path, data, seconds):
    path.write_bytes(data)
    os.utime(path, (seconds, seconds))


def rewritten_in_place(path):
    """`rsync --inplace -t`, `cp -p` over a file."""
    with path.open("r+b") as file:
        file.write(b"new")


def removed_and_made_anew(path):
    """`tar -x`; a file system may give the same inode out again."""
    path.unlink()
    path.write_bytes(b"new")


def mapped_and_changed(path):
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 3) as view:
        view[:] = b"new"
        view.flush()


@pytest.mark.parametrize("change", [rewritten_in_place, removed_and_made_anew, mapped_and_changed])
async def test_a_version_of_the_same_size_and_time_has_another_etag(store, folder, change):
    path = folder / "a"
    write_with_time(path, b"old", 1_700_000_000)
    before = await store.head("a")
    while (await store.head("a")).etag == before.etag:  # the kernel's clock moves by a few milliseconds at a time
        change(path)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    after = await store.head("a")
    assert (after.size, after.last_modified) == (before.size, before.last_modified)
    with pytest.raises(PreconditionFailed):
        await store.get("a", if_match=before.etag)


async def test_a_file_rewritten_under_its_old_time_while_it_is_read_is_noticed(store, folder):
    write_with_time(folder / "a", DATA, 1_700_000_000)
    stream = await store.get("a")
    chunks = aiter(stream.chunks)
    await anext(chunks)
    first = (folder / "a").stat().st_ctime_ns
    while (folder / "a").stat().st_ctime_ns == first:
        write_with_time(folder / "a", DATA[::-1], 1_700_000_000)
    with pytest.raises(GenerationChanged):
        async for _ in chunks:
            pass
    await stream.aclose()


async def test_another_name_for_a_file_does_not_disturb_who_reads_it(store, folder, helpers):
    (folder / "a").write_bytes(DATA)
    stream = await store.get("a")
    os.link(folder / "a", folder / "backup")
    assert await helpers["drain"](stream) == DATA


async def test_a_write_changes_only_the_key_that_it_names(store, folder, helpers):
    (folder / "real").mkdir()
    (folder / "real" / "x").write_bytes(b"x")
    for name in ("replaced", "removed"):
        (folder / name).symlink_to("real/x")
    await store.put("replaced", helpers["chunked"](b"mine"))
    await store.delete("removed")
    assert names(folder) == ["real", "replaced"]
    assert (folder / "replaced").read_bytes() == b"mine"
    assert (folder / "real" / "x").read_bytes() == b"x"


async def test_a_key_below_a_link_to_a_folder_cannot_be_written(store, folder, helpers):
    (folder / "real" / "deep").mkdir(parents=True)
    (folder / "real" / "deep" / "x").write_bytes(b"x")
    (folder / "link").symlink_to("real")
    (folder / "real" / "again").symlink_to("deep")
    for key in ("link/deep/x", "link/new", "link/new/y", "real/again/x"):
        with pytest.raises(Forbidden, match="behind a symbolic link"):
            await store.put(key, helpers["chunked"](b"1"))
        with pytest.raises(Forbidden, match="behind a symbolic link"):
            await store.delete(key)
    assert (folder / "real" / "deep" / "x").read_bytes() == b"x"
    assert names(folder / "real") == ["again", "deep"]


async def test_a_link_that_is_no_object_is_neither_removed_nor_replaced(store, folder, helpers):
    (folder / "real").mkdir()
    (folder / "to-folder").symlink_to("real")
    (folder / "to-nothing").symlink_to("gone")
    with pytest.raises(Conflict):
        await store.put("to-folder", helpers["chunked"](b"1"))
    for key in ("to-folder", "to-nothing"):
        with pytest.raises(NotFound):
            await store.delete(key)
    assert names(folder) == ["real", "to-folder", "to-nothing"]


async def test_no_error_tells_where_the_folder_lies(store, folder, tmp_path, helpers):
    (folder / "file").write_bytes(b"1")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "out").symlink_to("/etc/hostname")
    refused = []
    for key in ("missing", "missing/deep", "file/below", "folder", "loop", "out", "x" * 300, "folder/" + "y" * 300):
        for call in (store.get(key), store.head(key), store.delete(key)):
            with pytest.raises(GatewayError) as caught:
                await call
            refused.append(caught.value)
    for key in ("file/below", "folder", "out", "x" * 300):
        with pytest.raises(GatewayError) as caught:
            await store.put(key, helpers["chunked"](b"1"))
        refused.append(caught.value)
    for error in refused:
        assert str(tmp_path) not in error.message + error.hint
        assert "/etc" not in error.message + error.hint


async def test_a_socket_in_the_folder_is_no_object_and_no_failure_of_the_disk(store, folder, helpers):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(folder / "s"))
        for call in (store.get("s"), store.head("s"), store.delete("s")):
            with pytest.raises(NotFound):
                await call
    assert await helpers["list_all"](store) == ([], [])


@pytest.mark.parametrize("action", ["get", "head", "put"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_open_leaves_no_descriptor(store, folder, monkeypatch, helpers, action, times):
    (folder / "a").write_bytes(DATA)
    opening, go_on = threading.Event(), threading.Event()
    real = os.open

    def slow_open(path, flags, mode=0o777):
        opening.set()
        go_on.wait(30)
        return real(path, flags, mode)

    before = names(Path("/proc/self/fd"))
    monkeypatch.setattr(local_folder.os, "open", slow_open)
    call = store.put("b", helpers["chunked"](b"1")) if action == "put" else getattr(store, action)("a")
    task = asyncio.ensure_future(call)
    await asyncio.to_thread(opening.wait, 30)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert names(Path("/proc/self/fd")) == before
    assert names(folder) == ["a"]
