"""Names survive URLs, whoever reads them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate import Client, InvalidName
from shardgate.urls import Bucket, ObjectName, object_path, parse_object_url, with_tag, without_tag

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
    tag = parse_qs(urlsplit(url).query)["tag"][0]
    path = f"/v1/objects/sharded-imagenet/imagenet-train-000000.{tag}.tar"
    query = f"provider=gcp&transform_id=imagenet-train-0123&tag={tag}"
    assert url == f"http://aistore-sample-proxy:51080{path}?{query}"
    raw = client.object_url("gcp://sharded-imagenet", "imagenet-train-000000.tar")
    assert raw.endswith(":51080/v1/objects/sharded-imagenet/imagenet-train-000000.tar?provider=gcp")


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


def last_segment(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def test_no_two_results_share_the_last_part_of_their_path() -> None:
    client = Client("http://h:1")
    urls = [
        client.object_url(bucket, key, **options)
        for bucket in ("gcp://b", "aws://b", "gcp://c")
        for key in ("train/0.tar", "val/0.tar", "0.tar")
        for options in (
            {"transform_id": "a"},
            {"transform_id": "b"},
            {"transform_id": "a,b"},
            {"transform_id": "a", "epoch": 1},
            {"transform_id": "a", "epoch": 11},
            {"transform_id": "a", "seed": 1},
            {"transform_id": "a", "seed": 1, "epoch": 1},
            {"transform_id": "a", "args": "1"},
            {"transform_id": "a", "args": {"x": 1}},
            {"transform_id": "a", "archpath": "x.jpg"},
            {"archpath": "x.jpg"},
            {"archpath": "y.jpg"},
        )
    ]
    segments = {last_segment(url) for url in urls}
    assert len(segments) == len(urls)
    assert all(segment.startswith("0.") and segment.endswith(".tar") for segment in segments)
    assert "0.tar" not in segments


def test_the_same_result_has_the_same_name_every_time() -> None:
    options = {"transform_id": "a", "args": {"b": 1, "a": 2}, "epoch": 3}
    urls = {Client(endpoint).object_url("gcp://b", "k.tar", **options) for endpoint in ("http://h:1", "http://g:2")}
    assert len({last_segment(url) for url in urls}) == 1
    (expanded,) = Client("http://h:1").expand_object_urls("gcp://b", template="k.tar", **options)
    assert expanded in urls


@given(keys, st.text(st.sampled_from("abc019-_."), min_size=1).filter(lambda tag: "." not in tag))
def test_a_tag_comes_out_as_it_went_in(key: str, tag: str) -> None:
    assert without_tag(with_tag(key, tag), tag) == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a.tar", "a.T.tar"),
        ("d.x/a", "d.x/a.T"),
        ("a.tar.gz", "a.T.tar.gz"),
        ("v1.5_0.jpg", "v1.5_0.T.jpg"),
        (".hidden", ".hidden.T"),
        ("a.", "a.T."),
    ],
)
def test_a_tag_leaves_the_ending_as_it_is(key: str, name: str) -> None:
    assert with_tag(key, "T") == name


@given(keys)
def test_the_url_of_a_result_tells_its_object(key: str) -> None:
    url = Client("http://h:1").object_url("gcp://b", key, transform_id="t", epoch=3)
    assert parse_object_url(url) == (ObjectName(Bucket("gcp", "b"), key), {"transform_id": "t", "epoch": "3"})


def test_a_url_of_something_else_is_no_object() -> None:
    for url in ("http://h/v1/buckets/b", "http://h/v1/objects/b/k", "http://h/v1/objects/b?provider=gcp"):
        with pytest.raises(InvalidName):
            parse_object_url(url)


def test_an_endpoint_must_be_an_http_url() -> None:
    with pytest.raises(InvalidName, match=r"127\.0\.0\.1:51080"):
        Client("localhost:51080")
