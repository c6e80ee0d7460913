"""What only a folder has: links, other writers, hidden uploads."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest

from shardgate_gateway.errors import BadRequest, Forbidden, GenerationChanged, LocalStorageError, NotFound
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
