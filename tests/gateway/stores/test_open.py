"""Locations: what they open, and what a wrong one says."""

from __future__ import annotations

import pytest

from shardgate_gateway.errors import BadRequest, Forbidden, NotFound
from shardgate_gateway.settings import BucketSettings, UpstreamSettings
from shardgate_gateway.stores.http_origin import HttpOrigin
from shardgate_gateway.stores.local_folder import LocalFolder
from shardgate_gateway.stores.object_store import ObjectStoreBucket
from shardgate_gateway.stores.open import open_store
from shardgate_gateway.stores.read_only import ReadOnly

SECRET = "very-secret-value"


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("s3://bucket", ObjectStoreBucket),
        ("aws://bucket/folder/below?region=eu-central-1", ObjectStoreBucket),
        ("s3://bucket?endpoint=http://127.0.0.1:1&access_key_id=a&secret_access_key=b", ObjectStoreBucket),
        ("s3://bucket?skip_signature=true&virtual_hosted_style=true&request_payer=true", ObjectStoreBucket),
        ("gs://bucket?skip_signature=true", ObjectStoreBucket),
        ("gcp://bucket?endpoint=http://127.0.0.1:1&skip_signature=true", ObjectStoreBucket),
        ("az://container?account=me&access_key=QUJD", ObjectStoreBucket),
        ("azure://container?account=me&sas_token=sv=1%26sig=2", ObjectStoreBucket),
        ("mem://", ObjectStoreBucket),
        ("memory://anything", ObjectStoreBucket),
        ("http://127.0.0.1:8000/base/", HttpOrigin),
        ("https://example.com", HttpOrigin),
        ("./data", LocalFolder),
        ("/data", LocalFolder),
        ("~/data", LocalFolder),
        ("file:///data", LocalFolder),
        ("file://data", LocalFolder),
    ],
)
async def test_a_location_opens_the_store_it_names(where, kind, open_bucket):
    store = open_bucket(where)
    assert isinstance(store, kind)
    await store.aclose()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("ftp://host/x", "unknown provider 'ftp'"),
        ("s3://", "names no bucket"),
        ("s3://bucket?endpiont=x", "unknown option endpiont"),
        ("s3://bucket/a/../b", "can't name an object"),
        ("gs://bucket?region=x", "unknown option region"),
        ("http://", "web server"),
        ("http://host/a?token=x", "web server"),
        ("http://host:99999999/a", "no URL"),
        ("http://host:x/a", "no URL"),
        ("http://[::1/a", "no URL"),
        ("s3://[bucket/a", "no URL"),
        ("", "names no folder"),
        ("file://", "names no folder"),
    ],
)
def test_a_wrong_location_says_what_is_wrong(where, message, open_bucket):
    with pytest.raises(BadRequest, match=message) as caught:
        open_bucket(where)
    assert caught.value.hint


@pytest.mark.parametrize(
    "where",
    [
        f"s3://bucket?secret_access_key={SECRET}&wrong=1",
        f"az://container?account=a&access_key={SECRET}",
        f"s3://bucket?skip_signature={SECRET}",
        f"http://user:{SECRET}@host/?x",
    ],
)
def test_a_message_shows_no_secret_of_the_location(where, open_bucket):
    with pytest.raises(BadRequest) as caught:
        open_bucket(where)
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


def test_a_service_account_that_is_not_there_is_named(open_bucket):
    with pytest.raises(BadRequest, match=r"/nowhere\.json"):
        open_bucket("gs://bucket?service_account=/nowhere.json")


async def test_a_bucket_configured_read_only_refuses_to_change(open_bucket, helpers):
    store = open_bucket("mem://", read_only=True)
    assert isinstance(store, ReadOnly)
    with pytest.raises(BadRequest, match="read-only") as caught:
        await store.put("a", helpers["chunked"](b"1"))
    assert "read_only" in caught.value.hint
    with pytest.raises(BadRequest, match="read-only"):
        await store.delete("a")


async def test_two_memory_buckets_never_share_an_etag(open_bucket, helpers):
    etags = {(await open_bucket("mem://").put("a", helpers["chunked"](b"1"))).etag for _ in range(3)}
    assert len(etags) == 3


async def test_a_relative_folder_stays_where_it_was_when_opened(tmp_path, monkeypatch, open_bucket, helpers):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    store = open_bucket("data")
    monkeypatch.chdir("/")
    assert await helpers["drain"](await store.get("a")) == b"1"


@pytest.mark.servers
async def test_wrong_credentials_and_a_missing_bucket_are_told_apart(versitygw, open_bucket):
    denied = open_bucket(versitygw.where("bucket", secret_access_key="wrong"))
    with pytest.raises(Forbidden, match=r"a\.tar") as caught:
        await denied.get("a.tar")
    assert "credentials" in caught.value.hint
    with pytest.raises(NotFound) as missing:
        await open_bucket(versitygw.where("no-such-bucket")).get("a.tar")
    assert "the bucket is not there" in missing.value.message


async def test_without_any_credentials_the_hint_names_them(monkeypatch):
    """On a laptop obstore asks the cloud's metadata service, which is not there."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    store = open_store(
        "aws://bucket",
        BucketSettings(where="s3://bucket?endpoint=http://127.0.0.1:9"),
        UpstreamSettings(connect_timeout=1, progress_timeout=1),
    )
    with pytest.raises(Forbidden) as caught:
        await store.get("a")
    assert "skip_signature" in caught.value.hint
