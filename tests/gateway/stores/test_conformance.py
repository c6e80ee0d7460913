"""What every store and every wrapper does, run against each of them: real servers, a folder, memory."""

from __future__ import annotations

import os

import pytest

from shardgate_gateway.errors import (
    BadRequest,
    Conflict,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    UpstreamError,
)

DATA = os.urandom(2_500_000)


async def test_an_object_comes_back_as_it_was_stored(backend):
    await backend.fill("train/a.tar", DATA)
    meta, body = await backend.read("train/a.tar")
    assert body == DATA
    assert (meta.key, meta.size) == ("train/a.tar", len(DATA))
    assert meta.etag
    assert '"' not in meta.etag


async def test_an_empty_object_is_an_object(backend):
    await backend.fill("empty", b"")
    meta, body = await backend.read("empty")
    assert (meta.size, body) == (0, b"")
    with pytest.raises(RangeNotSatisfiable) as caught:
        await backend.store.get("empty", start=0, end=10)
    assert caught.value.size == 0


async def test_head_and_get_describe_the_same_version(backend):
    await backend.fill("a", DATA)
    head = await backend.store.head("a")
    meta, _ = await backend.read("a")
    ranged, _ = await backend.read("a", start=1, end=2)
    assert head == meta == ranged
    assert head.last_modified.tzinfo is not None


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (0, 100), (1, 2), (1000, 2_000_000), (2_499_999, 2_500_000), (7, None), (0, None)]
)
async def test_a_range_is_exactly_the_range(backend, start, end):
    await backend.fill("a", DATA)
    stream = await backend.store.get("a", start=start, end=end)
    assert (stream.start, stream.end) == (start, end or len(DATA))
    assert b"".join([bytes(chunk) async for chunk in stream.chunks]) == DATA[start:end]
    await stream.aclose()


async def test_a_range_is_cut_to_the_size(backend):
    await backend.fill("a", b"0123456789")
    stream = await backend.store.get("a", start=8, end=1000)
    assert (stream.start, stream.end) == (8, 10)
    assert b"".join([bytes(chunk) async for chunk in stream.chunks]) == b"89"
    await stream.aclose()


@pytest.mark.parametrize(("start", "end"), [(10, None), (10, 11), (1000, 2000)])
async def test_a_range_behind_the_end_tells_the_size(backend, start, end):
    await backend.fill("a", b"0123456789")
    with pytest.raises(RangeNotSatisfiable) as caught:
        await backend.store.get("a", start=start, end=end)
    assert caught.value.size == 10


async def test_an_empty_range_is_a_mistake_of_the_caller(backend):
    with pytest.raises(BadRequest, match="is empty"):
        await backend.store.get("a", start=5, end=5)


async def test_if_match_holds_for_this_version_only(backend):
    await backend.fill("a", DATA)
    etag = (await backend.store.head("a")).etag
    _, body = await backend.read("a", start=5, if_match=etag)
    assert body == DATA[5:]
    with pytest.raises(PreconditionFailed):
        await backend.store.get("a", if_match="another")
    with pytest.raises(PreconditionFailed):
        await backend.store.get("a", start=len(DATA), if_match="another")


async def test_another_body_has_another_etag(backend):
    await backend.fill("a", b"first")
    first = (await backend.store.head("a")).etag
    await backend.fill("a", b"another")
    assert (await backend.store.head("a")).etag != first
    with pytest.raises(PreconditionFailed):
        await backend.store.get("a", if_match=first)


async def test_what_is_not_there_is_not_found(backend):
    await backend.fill("a/b", b"1")
    for key in ("nothing", "nothing/there", "a/nothing"):
        with pytest.raises(NotFound, match="nothing"):
            await backend.store.get(key)
        with pytest.raises(NotFound):
            await backend.store.head(key)


async def test_a_folder_and_what_lies_below_a_file_are_no_objects(backend):
    await backend.fill("a/b", b"1")
    for key in ("a", "a/b/c"):
        with pytest.raises(NotFound):
            await backend.store.get(key)
        with pytest.raises(NotFound):
            await backend.store.head(key)


async def test_a_stream_can_be_given_up_at_any_time(backend):
    await backend.fill("a", DATA)
    untouched = await backend.store.get("a")
    await untouched.aclose()
    begun = await backend.store.get("a")
    async for _ in begun.chunks:
        break
    await begun.aclose()
    assert (await backend.read("a"))[1] == DATA


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "a\0b", "a\nb", "a\x7f", "\ud800", "x" * 1025],
)
async def test_a_key_that_cannot_be_held_exactly_is_refused(backend, key, helpers):
    for call in (
        backend.store.get(key),
        backend.store.head(key),
        backend.store.delete(key),
        backend.store.put(key, helpers["chunked"](b"1")),
    ):
        with pytest.raises(BadRequest) as caught:
            await call
        assert caught.value.hint


async def test_put_answers_with_the_version_it_stored(writable, helpers):
    meta = await writable.store.put("a.tar", helpers["chunked"](DATA), content_type="application/x-tar")
    assert meta == await writable.store.head("a.tar")
    assert meta.size == len(DATA)
    if writable.keeps_type:
        assert meta.content_type == "application/x-tar"


async def test_put_replaces_whole(writable):
    await writable.fill("a", DATA)
    await writable.fill("a", b"short")
    assert (await writable.read("a"))[1] == b"short"


@pytest.mark.parametrize("size", [20 << 20, 8 << 20, (8 << 20) - 1])
async def test_a_large_body_of_unknown_size_is_stored_in_parts(writable, helpers, size):
    data = os.urandom(1 << 20) * (size >> 20) + bytes(size % (1 << 20))
    await writable.store.put("large", helpers["chunked"](data, 300_000))
    assert (await writable.read("large"))[1] == data


@pytest.mark.parametrize("size", [100, 20 << 20])
async def test_a_put_whose_body_raises_leaves_what_was_there(writable, size):
    class SenderLeft(Exception):
        pass

    async def broken():
        yield bytes(size)
        raise SenderLeft

    await writable.fill("old", b"old")
    for key in ("old", "new"):
        with pytest.raises(SenderLeft):
            await writable.store.put(key, broken())
    assert (await writable.read("old"))[1] == b"old"
    with pytest.raises(NotFound):
        await writable.store.head("new")


async def test_delete_removes_once(writable):
    await writable.fill("a", b"1")
    await writable.store.delete("a")
    with pytest.raises(NotFound):
        await writable.store.get("a")
    with pytest.raises(NotFound):
        await writable.store.delete("a")


async def test_a_name_is_a_folder_or_an_object_where_the_store_says_so(writable):
    if not writable.exclusive:
        pytest.skip("here both can be")
    await writable.fill("a/b", b"1")
    with pytest.raises(Conflict) as caught:
        await writable.fill("a", b"1")
    assert "another key" in caught.value.hint
    with pytest.raises((Conflict, UpstreamError)):  # nginx has only a 500 for it
        await writable.fill("a/b/c", b"1")
    assert (await writable.read("a/b"))[1] == b"1"


async def test_a_listing_is_sorted_and_complete(listing, helpers):
    keys = ["a.tar", "a/1", "a/2", "a0", "b", "train-000000.tar", "train-000001.tar", "train/x", "val/y/z"]
    for key in reversed(keys):
        await listing.fill(key, key.encode())
    page = await listing.store.list()
    assert [meta.key for meta in page.objects] == keys
    assert [meta.size for meta in page.objects] == [len(key) for key in keys]
    assert page.token is None
    heads = [await listing.store.head(key) for key in keys]
    assert [meta.etag for meta in page.objects] == [meta.etag for meta in heads]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a", ["a.tar", "a/1", "a/2", "a0"]),
        ("a/", ["a/1", "a/2"]),
        ("a/2", ["a/2"]),
        ("train", ["train-000000.tar", "train-000001.tar", "train/x"]),
        ("train-00000", ["train-000000.tar", "train-000001.tar"]),
        ("train-000001", ["train-000001.tar"]),
        ("val/y", ["val/y/z"]),
        ("val/0", []),
        ("nothing", []),
        ("nothing/", []),
    ],
)
async def test_a_prefix_is_a_plain_string(listing, helpers, prefix, expected):
    for key in ["a.tar", "a/1", "a/2", "a0", "b", "train-000000.tar", "train-000001.tar", "train/x", "val/y/z"]:
        await listing.fill(key, b"1")
    assert await helpers["list_all"](listing.store, prefix) == (expected, [])


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_join_to_the_whole(listing, helpers, limit):
    keys = sorted(f"{folder}{number}" for folder in ("", "a/", "a/b/", "c/") for number in range(4))
    for key in keys:
        await listing.fill(key, b"1")
    assert await helpers["list_all"](listing.store, limit=limit) == (keys, [])
    assert await helpers["list_all"](listing.store, "a/", limit=limit) == ([k for k in keys if k[:2] == "a/"], [])


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_delimiter_folds_folders(listing, helpers, limit):
    for key in ["a", "b/1", "b/2", "b/c/3", "b-d/4", "e"]:
        await listing.fill(key, b"1")
    fold = {"limit": limit, "delimiter": True}
    assert await helpers["list_all"](listing.store, **fold) == (["a", "e"], ["b-d/", "b/"])
    assert await helpers["list_all"](listing.store, "b/", **fold) == (["b/1", "b/2"], ["b/c/"])
    assert await helpers["list_all"](listing.store, "b", **fold) == ([], ["b-d/", "b/"])


async def test_a_store_without_listing_says_what_to_do(backend):
    if backend.lists:
        pytest.skip("this one lists")
    with pytest.raises(BadRequest) as caught:
        await backend.store.list()
    assert "template" in caught.value.hint
