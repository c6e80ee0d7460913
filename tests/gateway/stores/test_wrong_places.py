"""A location that is wrong is told in words that say which part of it, by a listing as by a GET."""

from __future__ import annotations

import re
import socket

import pytest

from shardgate_gateway.errors import Conflict, Forbidden, NotFound
from shardgate_gateway.settings import BucketSettings
from shardgate_gateway.stores import start_check
from shardgate_gateway.stores.start_check import check_buckets

SERVERS = ["versitygw", "minio", "azurite"]


def without_keys(where: str) -> str:
    return re.sub(r"(secret_access_key|access_key)=[^&]*", r"\1=d3Jvbmc=", where)


@pytest.fixture(params=SERVERS)
def server(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("prefix", ["", "a/b/"])
async def test_a_listing_of_a_bucket_that_is_not_there_says_so(server, open_bucket, prefix):
    with pytest.raises(NotFound, match=r"test://bucket/\S*: the bucket is not there$") as caught:
        await open_bucket(server.where("no-such-bucket")).list(prefix)
    assert "where" in caught.value.hint


@pytest.mark.parametrize("prefix", ["", "a/b/"])
async def test_a_listing_with_keys_that_are_refused_says_so(server, open_bucket, prefix):
    with pytest.raises(Forbidden) as caught:
        await open_bucket(without_keys(server.where("bucket"))).list(prefix)
    assert "credentials" in caught.value.hint


async def test_an_object_that_is_not_there_is_told_without_the_stores_words(server, open_bucket):
    store = open_bucket(server.where("bucket"))
    for call in (store.get, store.head, store.delete):
        with pytest.raises(NotFound) as caught:
            await call("no/such")
        assert caught.value.message == "test://bucket/no/such: no such object"


async def test_a_file_in_the_place_of_a_folder_is_told_as_that(tmp_path, open_bucket, helpers):
    (tmp_path / "file").write_bytes(b"x")
    store = open_bucket(tmp_path / "file")
    with pytest.raises(NotFound, match="its location is no folder"):
        await store.list()
    with pytest.raises((NotFound, Conflict), match="its location is no folder"):
        await store.put("k", helpers["chunked"](b"x"))
    with pytest.raises(NotFound):
        await store.get("k")


async def test_what_is_wrong_with_a_bucket_is_a_warning_and_ends_nothing(
    tmp_path, versitygw, open_bucket, caplog, monkeypatch
):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "good").mkdir()
    closed = open_bucket(tmp_path)
    monkeypatch.setattr(closed, "list", lambda **_: 1 / 0)
    places = {
        "good": tmp_path / "good",
        "typo": tmp_path / "typo",
        "file": tmp_path / "file",
        "web": "http://127.0.0.1:1/base",
        "bucket": versitygw.where("bucket"),
        "missing": versitygw.where("no-such-bucket"),
        "keys": without_keys(versitygw.where("bucket")),
    }
    asked = [(name, BucketSettings(where=str(where)), open_bucket(where)) for name, where in places.items()]
    await check_buckets([*asked, ("broken", BucketSettings(where=versitygw.where("bucket")), closed)])
    said = {record.message.split(":")[0]: record.message for record in caplog.records}
    assert said.keys() == {"bucket typo", "bucket file", "bucket missing", "bucket keys", "bucket broken"}
    assert "typo is not there; the first PUT will make it" in said["bucket typo"]
    assert "is no folder" in said["bucket file"]
    assert "the bucket is not there" in said["bucket missing"]
    assert "credentials" in said["bucket keys"]
    assert "ZeroDivisionError" in said["bucket broken"]


async def test_a_store_that_is_silent_holds_the_look_up_for_a_bounded_time(open_bucket, caplog, monkeypatch):
    monkeypatch.setattr(start_check, "CHECK_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        where = f"s3://b?endpoint={address}&region=r&access_key_id=i&secret_access_key=s"
        store = open_bucket(where)
        await check_buckets([("silent", BucketSettings(where=where), store)])
    assert "did not answer within" in caplog.text
