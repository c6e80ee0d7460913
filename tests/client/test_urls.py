"""Names survive URLs, whoever reads them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate import Client, InvalidName
from shardgate.urls import Bucket, ObjectName, object_path, parse_object_url

if TYPE_CHECKING:
    from fake_gateway import FakeGateway

AWKWARD = [
    "a b.tar",
    "100%.tar",
    "a#b?c=d&e",
    "ünï/日本.tar",
    "x{1,2}[3-5].tar",
    "a::b${HOME}$x`y`",
    "//a//b/",
    "a+b%2Fc",
    "~.-_",
    "...",
    "a\\b'\"",
]


def test_the_documents_call_gives_the_documents_url() -> None:
    client = Client("http://aistore-sample-proxy:51080")
    url = client.object_url("gcp://sharded-imagenet", "imagenet-train-000000.tar", transform_id="imagenet-train-0123")
    path = "/v1/objects/sharded-imagenet/imagenet-train-000000.tar?provider=gcp&transform_id=imagenet-train-0123"
    assert url == "http://aistore-sample-proxy:51080" + path


def test_both_forms_of_a_bucket_mean_the_same() -> None:
    client = Client("http://h:1")
    assert (
        client.object_url("gs://b", "k")
        == client.object_url("b", "k", provider="gcp")
        == client.object_url("gcp://b/", "k")
    )


@pytest.mark.parametrize(
    ("bucket", "provider"),
    [
        ("b", None),
        ("ftp://b", None),
        ("gcp://b", "aws"),
        ("gcp://", None),
        ("gcp://b/c", None),
        ("b/c", "gcp"),
        ("", "gcp"),
        ("b", "nope"),
    ],
)
def test_a_bucket_that_cannot_be_meant_is_refused(bucket: str, provider: str | None) -> None:
    with pytest.raises(InvalidName):
        Bucket.parse(bucket, provider)


@pytest.mark.parametrize("key", ["", ".", "..", "a/../b", "./a", "a\nb", "\0", "\ud800", "x" * 1025])
def test_a_name_that_readers_would_rewrite_is_refused(key: str) -> None:
    with pytest.raises(InvalidName):
        Client("http://h:1").object_url("gcp://b", key)


def test_options_of_a_transform_need_a_transform() -> None:
    client = Client("http://h:1")
    with pytest.raises(InvalidName, match="belong to a transform"):
        client.object_url("gcp://b", "k", epoch=3)
    with pytest.raises(InvalidName, match="whole numbers"):
        client.object_url("gcp://b", "k", transform_id="t", seed=-1)
    url = client.object_url("gcp://b", "k", transform_id="t", args={"b": 1, "a": [True]}, seed=0, epoch=3)
    assert parse_object_url(url)[1] == {"transform_id": "t", "args": '{"a":[true],"b":1}', "seed": "0", "epoch": "3"}


keys = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
    .filter(lambda key: not {".", ".."} & set(key.split("/")))
    .filter(lambda key: len(key.encode()) <= 1024)
)


@given(keys, st.dictionaries(st.sampled_from(["args", "archpath"]), keys))
def test_any_name_comes_back_from_its_url(key: str, query: dict[str, str]) -> None:
    bucket = Bucket("aws", "my-bucket")
    assert parse_object_url("http://h:1" + object_path(bucket, key, query)) == (ObjectName(bucket, key), query)


@given(keys)
def test_urls_hold_nothing_that_a_shell_curl_or_webdataset_expands(key: str) -> None:
    path = object_path(Bucket("gcp", "b"), key, {})
    assert path.isascii()
    assert not set(path) & set("{}[]$`\\\"' <>*#|;,")
    assert "::" not in path


@pytest.mark.parametrize("key", AWKWARD)
def test_awkward_names_arrive_as_they_are_through_urllib3(client: Client, gateway: FakeGateway, key: str) -> None:
    gateway.objects[f"gcp://b/{key}"] = b"body"
    assert client.get("gcp://b", key) == b"body"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is what webdataset reads with")
@pytest.mark.parametrize("key", AWKWARD)
def test_awkward_names_arrive_as_they_are_through_webdatasets_curl(
    client: Client, gateway: FakeGateway, key: str
) -> None:
    from webdataset.shardlists import expand_urls

    gateway.objects[f"gcp://b/{key}"] = b"body"
    url = client.object_url("gcp://b", key)
    assert expand_urls(url) == [url]
    assert subprocess.run(["curl", "-f", "-s", "-L", url], check=True, capture_output=True).stdout == b"body"


def test_a_url_of_something_else_is_no_object() -> None:
    for url in ("http://h/v1/buckets/b", "http://h/v1/objects/b/k", "http://h/v1/objects/b?provider=gcp"):
        with pytest.raises(InvalidName):
            parse_object_url(url)


def test_an_endpoint_must_be_an_http_url() -> None:
    with pytest.raises(InvalidName, match=r"127\.0\.0\.1:51080"):
        Client("localhost:51080")
