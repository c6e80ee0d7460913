"""Whole-object operations, and a client that is carried into other processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from fake_gateway import FakeGateway, fake_gateway

from shardgate import Client, GatewayUnreachable, NotFound, ObjectInfo, Unauthorized

if TYPE_CHECKING:
    from pathlib import Path


def test_bytes_files_and_streams_are_put_whole(client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    client.put("gcp://b", "bytes", b"as bytes")
    client.put("b", "path", tmp_path / "file", provider="gs")
    with (tmp_path / "file").open("rb") as file:
        file.seek(5)
        client.put("gcp://b", "open file", file)
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe")
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
        client.put("gcp://b", "pipe", pipe)
    client.put("gcp://b", "empty", io.BytesIO())
    assert gateway.objects == {
        "gcp://b/bytes": b"as bytes",
        "gcp://b/path": b"from a file",
        "gcp://b/open file": b"a file",
        "gcp://b/pipe": b"from a pipe",
        "gcp://b/empty": b"",
    }
    assert client.get("gcp://b", "empty") == b""


def test_head_describes_an_object(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/k"] = b"12345"
    assert client.head("gcp://b", "k") == ObjectInfo(
        name="k",
        size=5,
        etag=gateway.etag(b"12345").strip('"'),
        last_modified=datetime(2026, 11, 21, 7, tzinfo=UTC),
        content_type="application/x-tar",
    )
    with pytest.raises(NotFound):
        client.head("gcp://b", "nothing")


def test_a_listing_goes_on_over_its_pages_as_it_is_read(client: Client, gateway: FakeGateway) -> None:
    names = [f"train-{i:03d}.tar" for i in range(8)]
    gateway.objects = {f"gcp://b/{name}": b"x" for name in ["other", *names]}
    listing = client.list("gcp://b", "train-")
    next(listing)
    assert len(gateway.requests) == 1
    assert [info.name for info in client.list("gcp://b", "train-")] == names
    assert list(client.list("gcp://b", "zzz")) == []


def test_a_deleted_object_is_gone(client: Client, gateway: FakeGateway) -> None:
    client.put("gcp://b", "k", b"x")
    client.delete("gcp://b", "k")
    assert gateway.objects == {}
    with pytest.raises(NotFound):
        client.delete("gcp://b", "k")


@pytest.mark.parametrize("others", [0, 1])
def test_a_deletion_whose_answer_is_lost_is_not_repeated(gateway: FakeGateway, others: int) -> None:
    """It is done; repeated, it would say that there is no such object, or remove one that is new."""
    gateway.objects["gcp://b/k"] = b"1"
    gateway.loses_answers = True
    client = Client(",".join([gateway.url] * (1 + others)))
    with pytest.raises(GatewayUnreachable, match="no answer") as caught:
        client.delete("gcp://b", "k")
    assert "may be done" in caught.value.hint
    assert [method for method, *_ in gateway.requests] == ["DELETE"]


def test_a_deletion_goes_to_the_next_gateway_where_one_is_not_there(gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/k"] = b"1"
    Client(f"http://127.0.0.1:1,{gateway.url}").delete("gcp://b", "k")
    assert not gateway.objects


def test_a_connection_that_was_closed_meanwhile_does_not_stop_a_deletion(client: Client, gateway: FakeGateway) -> None:
    gateway.objects |= {"gcp://b/k": b"1", "gcp://b/l": b"1"}
    client.get("gcp://b", "k")
    gateway.loses_answers = True
    with pytest.raises(GatewayUnreachable):
        client.delete("gcp://b", "l")
    gateway.loses_answers = False
    client.delete("gcp://b", "k")
    assert not gateway.objects


def test_admin_requests_reach_the_gateway(client: Client, gateway: FakeGateway) -> None:
    assert client.cache.stat()["entries"] == 1
    client.cache.prefetch("gcp://b", "a b")
    client.cache.evict("b", prefix="x/", provider="gcp")
    targets = [target for _, target, _ in gateway.requests]
    assert targets[1:] == [
        "/v1/cache/prefetch?bucket=b&provider=gcp&object=a+b",
        "/v1/cache/evict?bucket=b&provider=gcp&prefix=x%2F",
    ]
    assert client.buckets()["buckets"][0]["bucket"] == "gcp://b"


def test_the_token_is_sent_and_its_lack_is_reported(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.token = "secret"
    gateway.objects["gcp://b/k"] = b"x"
    with Client(gateway.url) as client, pytest.raises(Unauthorized, match="no valid token"):
        client.get("gcp://b", "k")
    with Client(gateway.url, "secret") as client:
        assert client.get("gcp://b", "k") == b"x"
    monkeypatch.setenv("SHARDGATE_TOKEN", "secret")
    with Client() as client:
        assert client.get("gcp://b", "k") == b"x"


def test_nobody_at_the_endpoint_is_said_with_a_hint() -> None:
    with fake_gateway() as gone:
        url = gone.url
    with pytest.raises(GatewayUnreachable, match="Connection refused") as caught:
        Client(url).head("gcp://b", "k")
    assert f"is `shardgate serve` running at {url}?" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12 and later
def test_a_client_works_after_pickling_and_in_a_forked_child(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/k"] = b"body"
    assert client.get("gcp://b", "k") == b"body"  # opens a connection, which the child must not use
    assert pickle.loads(pickle.dumps(client)).get("gcp://b", "k") == b"body"
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(client.get("gcp://b", "k")))
    child.start()
    child.join()
    assert answers.get() == b"body"
    assert client.get("gcp://b", "k") == b"body"


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDGATE_ENDPOINT", "http://gateway:1/")
    assert Client().endpoint == "http://gateway:1"
    monkeypatch.delenv("SHARDGATE_ENDPOINT")
    assert Client().endpoint == "http://127.0.0.1:51080"
