"""webdataset reads through our opener, whole or with an error, also where curl would not come back."""

from __future__ import annotations

import io
import tarfile
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from fake_gateway import Fault

from shardgate import Client, TransferIncomplete, install_opener, wds_opener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_gateway import FakeGateway

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:webdataset")


@pytest.fixture(autouse=True)
def schemes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """webdataset's openers as they are after its import, and as they were after the test."""
    gopen = import_module("webdataset.gopen")  # the package's attribute of that name is a function
    monkeypatch.setattr(wds_opener, "_tokens", {})
    before = dict(gopen.gopen_schemes)
    gopen.gopen_schemes.update(http=gopen.gopen_curl, https=gopen.gopen_curl)
    yield gopen.gopen_schemes
    gopen.gopen_schemes.clear()
    gopen.gopen_schemes.update(before)


@pytest.fixture
def no_curl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def shard(samples: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for index in range(samples):
            member = tarfile.TarInfo(f"{index:04d}.bin")
            member.size = 5000
            tar.addfile(member, io.BytesIO(bytes([index % 256]) * 5000))
    return data.getvalue()


def keys(url: str) -> list[str]:
    import webdataset as wds

    dataset: Any = wds.WebDataset(url, shardshuffle=False)
    return [sample["__key__"] for sample in dataset]


@pytest.mark.usefixtures("no_curl")
def test_a_clients_url_is_read_without_curl_and_with_its_token(gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/s.tar"] = shard(50)
    gateway.token = "secret"
    url = Client(gateway.url, "secret").object_url("gcp://b", "s.tar")
    assert keys(url) == [f"{index:04d}" for index in range(50)]
    (url,) = Client(gateway.url, "secret").expand_object_urls("gcp://b", template="s.tar")
    assert len(keys(url)) == 50


@pytest.mark.usefixtures("no_curl")
def test_other_urls_stay_with_curl_until_asked_otherwise(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/s.tar"] = shard(50)
    client.object_url("gcp://b", "s.tar")
    other = client.object_url("gcp://b", "s.tar").replace("127.0.0.1", "localhost")
    with pytest.raises(FileNotFoundError, match="curl"):
        keys(other)
    install_opener()
    assert len(keys(other)) == 50


def test_an_opener_of_the_program_is_left_in_place(client: Client, schemes: dict[str, Any]) -> None:
    opened: list[str] = []
    schemes["http"] = lambda url, mode, bufsize: opened.append(url) or io.BytesIO(shard(3))
    url = client.object_url("gcp://b", "s.tar")
    assert len(keys(url)) == 3
    assert opened == [url]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_connection_is_only_a_pause(client: Client, gateway: FakeGateway, chunked: bool) -> None:
    gateway.objects["gcp://b/s.tar"] = shard(400)
    gateway.chunked = chunked
    gateway.faults = [Fault(after=900_000), Fault(after=1_000_000)]
    assert len(keys(client.object_url("gcp://b", "s.tar"))) == 400


def test_a_shard_that_ends_early_raises_and_never_looks_whole(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/s.tar"] = shard(400)
    gateway.faults = [Fault(after=900_000)] + [Fault(after=0)] * 20
    with pytest.raises(TransferIncomplete):
        keys(client.object_url("gcp://b", "s.tar"))


def test_it_only_reads() -> None:
    from webdataset.gopen import gopen

    install_opener()

    with pytest.raises(ValueError, match="can only be read"):
        gopen("http://127.0.0.1:1/x", "wb")
