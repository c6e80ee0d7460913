"""Listing a big bucket: from any place, in bounded memory, over folders of any size without reading them."""

from __future__ import annotations

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from shardgate_gateway.stores import listing
from shardgate_gateway.stores.keys import is_key
from shardgate_gateway.stores.listing import fold, just_before, walk

keys = st.lists(
    st.text("ab/0.-\u00ff\ue000\U0010fffe", min_size=1, max_size=6).filter(is_key), unique=True, max_size=12
)
prefixes = st.text("ab/0.-\u00ff\ue000", max_size=3)


async def fill(keys):
    client = MemoryStore()
    for key in keys:
        await obstore.put_async(client, key, b"1")
    return client


def expected(keys, prefix, *, delimiter):
    """What S3 would answer, said plainly."""
    found = [key for key in keys if key.startswith(prefix)]
    return sorted({(fold(key, prefix) if delimiter else "") or key for key in found})


@given(keys=keys, prefix=prefixes, delimiter=st.booleans())
async def test_every_prefix_lists_what_starts_with_it(keys, prefix, delimiter):
    client = await fill(keys)
    everything = [key async for key, _ in walk(client, prefix, None, delimiter=delimiter)]
    assert everything == expected(keys, prefix, delimiter=delimiter)


@given(keys=keys, prefix=prefixes, delimiter=st.booleans())
async def test_every_entry_will_do_as_token(keys, prefix, delimiter):
    client = await fill(keys)
    everything = expected(keys, prefix, delimiter=delimiter)
    for place, token in enumerate(everything):
        rest = [key async for key, _ in walk(client, prefix, token, delimiter=delimiter)]
        assert rest == everything[place + 1 :]


@given(prefix=prefixes, rest=st.text(max_size=4))
def test_just_before_a_prefix_sorts_before_all_it_has(prefix, rest):
    start = just_before(prefix)
    assert start < prefix + rest or not start


async def test_a_big_folder_is_jumped_not_read(monkeypatch):
    monkeypatch.setattr(listing, "BATCH", 10)
    client = await fill([f"big/{number:04}" for number in range(500)] + ["a", "z"])
    read = 0
    list_ = obstore.list

    def counting(*args, **how):
        async def batches():
            nonlocal read
            async for batch in list_(*args, **how):
                read += len(batch)
                yield batch

        return batches()

    monkeypatch.setattr(listing.obstore, "list", counting)
    assert [key async for key, _ in walk(client, "", None, delimiter=True)] == ["a", "big/", "z"]
    assert read < 50


async def test_a_listing_stops_behind_its_prefix(monkeypatch):
    monkeypatch.setattr(listing, "BATCH", 10)
    client = await fill([f"train-{number:04}" for number in range(500)])
    calls = []
    list_ = obstore.list
    monkeypatch.setattr(
        listing.obstore, "list", lambda *args, **how: calls.append(how["offset"]) or list_(*args, **how)
    )
    assert len([key async for key, _ in walk(client, "train-002", None, delimiter=False)]) == 10
    assert calls == ["train-001\U0010ffff"]


async def test_a_marker_of_a_folder_is_no_object():
    client = await fill(["folder/a", "other"])
    await obstore.put_async(client, "folder", b"")
    await obstore.put_async(client, "empty", b"")
    assert [key async for key, _ in walk(client, "", None, delimiter=False)] == ["empty", "folder/a", "other"]


@pytest.mark.parametrize(("key", "prefix", "folder"), [("a/b/c", "", "a/"), ("a/b/c", "a/", "a/b/"), ("a", "", "")])
def test_fold(key, prefix, folder):
    assert fold(key, prefix) == folder
