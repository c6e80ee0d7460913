"""What the store over obstore does beyond the conformance suite."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shardgate_gateway.errors import BadRequest

SCRIPT = """
import asyncio
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.settings import BucketSettings, UpstreamSettings
from shardgate_gateway.stores.open import open_store

async def body():
    yield bytes(1 << 20)

async def main():
    store = open_store("mem://b", BucketSettings(where="mem://"), UpstreamSettings())
    await store.put("a", body())
    stream = await store.get("a")
    async for _ in stream.chunks:
        pass

asyncio.run(main())
"""


def test_a_process_that_ends_right_after_a_read_ends_well():
    """obstore alone aborts in more than every second of these."""
    codes = [subprocess.run([sys.executable, "-c", SCRIPT], timeout=60, check=False).returncode for _ in range(4)]
    assert codes == [0] * 4


@pytest.mark.servers
async def test_an_upload_given_up_leaves_no_parts_behind(versitygw, open_bucket):
    versitygw.create_bucket("uploads")
    store = open_bucket(versitygw.where("uploads"))

    async def broken():
        for _ in range(4):
            yield bytes(8 << 20)
        raise RuntimeError("the sender left")

    with pytest.raises(RuntimeError, match="the sender left"):
        await store.put("given-up", broken())
    assert [path for path in (versitygw.folder / "uploads").rglob("*") if path.is_file()] == []


@pytest.mark.servers
async def test_an_object_changed_behind_our_back_has_another_etag(versitygw, open_bucket, helpers):
    store = open_bucket(versitygw.where("bucket"))
    before = await store.put("changing", helpers["chunked"](b"before"))
    other = open_bucket(versitygw.where("bucket"))
    await other.put("changing", helpers["chunked"](b"after!"))
    assert (await store.head("changing")).etag != before.etag


async def test_chunks_are_handed_on_as_they_come(open_bucket, helpers):
    """No joining, no splitting: what is many times larger than a chunk comes in many, each of a sensible size."""
    store = open_bucket("mem://")
    data = os.urandom(5 << 20)
    await store.put("a", helpers["chunked"](data))
    stream = await store.get("a")
    chunks = [chunk async for chunk in stream.chunks]
    assert all(chunks)
    assert b"".join(chunks) == data


@pytest.mark.parametrize("prefix", ["\0", "a\0", "a/\0", "\x7f", "\udcff", "x" * 5000, "../", "a//b"])
async def test_a_prefix_that_no_key_has_lists_nothing(open_bucket, helpers, prefix):
    store = open_bucket("mem://")
    await store.put("a", helpers["chunked"](b"1"))
    assert await helpers["list_all"](store, prefix) == ([], [])


@pytest.mark.parametrize("token", ["\0", "\udcff", "../", "//", "x" * 5000])
async def test_a_token_that_no_listing_gave_is_refused(open_bucket, token):
    with pytest.raises(BadRequest, match="no token"):
        await open_bucket("mem://").list("", token=token)


async def test_text_that_is_not_utf8_is_refused_in_our_words(open_bucket, helpers):
    with pytest.raises(BadRequest):
        await open_bucket("mem://").put("a", helpers["chunked"](b"1"), content_type="text/\udcff")
