"""webdataset reads through our opener, whole or with an error, also where curl would not come back."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from fake_gateway import Fault

from shardgate import Client, TransferIncomplete, install_opener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_gateway import FakeGateway

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:webdataset")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from webdataset.gopen import gopen_schemes

    before = dict(gopen_schemes)
    monkeypatch.setenv("PATH", "")  # no curl
    install_opener()
    yield
    gopen_schemes.clear()
    gopen_schemes.update(before)


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


def test_a_shard_is_read_without_curl(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/s.tar"] = shard(50)
    assert keys(client.object_url("gcp://b", "s.tar")) == [f"{index:04d}" for index in range(50)]


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

    with pytest.raises(ValueError, match="can only be read"):
        gopen("http://127.0.0.1:1/x", "wb")
