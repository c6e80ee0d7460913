"""From a raw request target to an object, decoded exactly once, or a clear refusal."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shardgate.client import Client
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.request import ObjectTarget, object_target, small_number

names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=100)


def acceptable(key: str) -> bool:
    return len(key.encode()) <= 1024 and not {".", ".."} & set(key.split("/"))


@given(key=names)
def test_a_key_comes_back_from_the_url_that_the_client_makes_of_it(key: str) -> None:
    assume(acceptable(key))
    url = Client("http://gateway:1").object_url("gcp://bucket", key, transform_id="t", args=key, seed=3, epoch=4)
    target = object_target(url.removeprefix("http://gateway:1"))
    assert target == ObjectTarget("bucket", key, "gcp", "t", key, 3, 4, tagged=True)


def test_a_tag_is_taken_out_only_where_the_query_says_so() -> None:
    assert object_target("/v1/objects/b/d/a.T.tar?tag=T").key == "d/a.tar"
    assert object_target("/v1/objects/b/d/a.T?tag=T").key == "d/a"
    for key in ("a.T.tar", "a;t=upper-0123;e=3.tar", "a.0123456789abcdef.tar"):
        assert object_target(f"/v1/objects/b/{key}").key == key
        assert object_target(f"/v1/objects/b/{key}?transform_id=t&epoch=3").key == key


@pytest.mark.parametrize("tail", ["a.tar?tag=T", "T.d/a.tar?tag=T", "a.T.tar?tag=", "a.x.T.tar?tag=x.T", "T?tag=T"])
def test_a_tag_that_is_not_in_the_last_segment_is_refused(tail: str) -> None:
    with pytest.raises(BadRequest, match="last part of the path"):
        object_target(f"/v1/objects/b/{tail}")


@given(key=names)
def test_a_key_whose_every_byte_is_quoted_is_the_same_key(key: str) -> None:
    assume(acceptable(key))
    everything = "".join(f"%{byte:02x}" for byte in key.encode())
    assert object_target(f"/v1/objects/b/{everything}").key == key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a.tar", "a.tar"),
        ("a.tar.gz", "a.tar.gz"),
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("a%25", "a%"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("a//b", "a//b"),
        ("a/", "a/"),
        ("a%3Fb%23c", "a?b#c"),
        ("...", "..."),
        ("a..b/.c", "a..b/.c"),
        ("%E2%82%AC", "€"),
    ],
)
def test_a_path_is_decoded_once(path: str, key: str) -> None:
    assert object_target(f"/v1/objects/b/{path}").key == key


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../x",
        "x/..",
        "x/../y",
        "%2e%2e",
        "%2E%2E/etc/passwd",
        "x%2F..%2Fy",
        "a/./b",
        "a%00b",
        "a%0Ab",
        "a%7f",
        "%",
        "%2",
        "%zz",
        "a%ff",
        "a%C3%28",
        "ä",
        "x" * 1025,
        quote("€" * 342),
    ],
)
def test_a_key_that_could_be_taken_for_another_is_refused(path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        object_target(f"/v1/objects/b/{path}")
    assert caught.value.message


def test_the_longest_key_is_1024_bytes() -> None:
    assert object_target("/v1/objects/b/" + "x" * 1024).key == "x" * 1024


def test_the_absolute_form_of_a_target_is_the_same_target() -> None:
    assert object_target("http://gateway:51080/v1/objects/b/k?provider=gs") == ObjectTarget("b", "k", "gcp")


@pytest.mark.parametrize("name", ["transform_id", "etl_name", "uuid"])
def test_a_transform_has_three_spellings(name: str) -> None:
    assert object_target(f"/v1/objects/b/k?{name}=t-1").transform == "t-1"


@pytest.mark.parametrize(
    "query",
    [
        "transform=t",
        "transfrom_id=t",
        "transform_id=t&transform_id=t",
        "transform_id=t&uuid=u",
        "provider=nowhere",
        "transform_id=t&seed=-1",
        "transform_id=t&seed=1.5",
        "transform_id=t&epoch=" + "9" * 19,
        "transform_id=t&epoch=%D9%A1",
        "transform_id=t&seed=",
        "seed=1",
        "epoch=0",
        "args=x",
        "provider=%zz",
    ],
)
def test_a_query_that_would_be_misunderstood_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        object_target(f"/v1/objects/b/k?{query}")


@given(archpath=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=50))
def test_a_members_name_may_hold_anything(archpath: str) -> None:
    assert object_target("/v1/objects/b/k?" + urlencode({"archpath": archpath})).archpath == archpath


@given(raw=st.text(max_size=80))
def test_no_target_does_worse_than_a_bad_request(raw: str) -> None:
    try:
        target = object_target(f"/v1/objects/{raw}")
    except BadRequest:
        return
    assert target.bucket
    assert acceptable(target.key)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("17", 17), ("9" * 18, 10**18 - 1), ("9" * 5000, None), ("-1", None), ("\u0663", None), ("", None)],
)
def test_a_number_in_a_header_is_small_or_none(text: str, number: int | None) -> None:
    assert small_number(text) == number
