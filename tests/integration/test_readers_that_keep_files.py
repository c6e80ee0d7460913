"""Readers that keep what they read, under the last part of the URL's path, get what the URL stands for."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import webdataset as wds

import shardgate
from shardgate import WDTransform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAW = [b"ab", b"cd"]


def tar_of(bodies: list[bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, body in enumerate(bodies):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def upper(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "txt": sample["txt"].upper()}


def marked(sample: dict[str, Any], text: str = "") -> dict[str, Any]:
    return {**sample, "txt": sample["txt"] + "!" + text}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shardgate.Client]:
    folder = tmp_path_factory.mktemp("bucket")
    for name in ("train/s.tar", "val/s.tar", "s;t=upper;e=3.tar", "s.0123456789abcdef.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(tar_of([b"val"] if name.startswith("val") else RAW))
    with shardgate.embedded({"file://b": folder}) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(client: shardgate.Client) -> dict[str, list[bytes]]:
    """URLs, and the texts that a reader of each has to see."""
    one, other = WDTransform(client, upper, "upper", workers=1).uuid, WDTransform(client, marked, "marked").uuid
    url = client.object_url
    return {
        url("file://b", "train/s.tar"): RAW,
        url("file://b", "train/s.tar", transform_id=one): [b"AB", b"CD"],
        url("file://b", "val/s.tar", transform_id=one): [b"VAL"],
        url("file://b", "train/s.tar", transform_id=other): [b"ab!", b"cd!"],
        url("file://b", "train/s.tar", transform_id=f"{one},{other}"): [b"AB!", b"CD!"],
        url("file://b", "train/s.tar", transform_id=one, epoch=1): [b"AB", b"CD"],
        url("file://b", "s;t=upper;e=3.tar"): RAW,
        url("file://b", "s;t=upper;e=3.tar", transform_id=one): [b"AB", b"CD"],
        url("file://b", "s.0123456789abcdef.tar", transform_id=one): [b"AB", b"CD"],
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdatasets_cache_folder_holds_each_result_apart(wanted: dict[str, list[bytes]], tmp_path: Path) -> None:
    for _ in range(2):
        for url, texts in wanted.items():
            dataset = wds.WebDataset([url], shardshuffle=False, cache_dir=str(tmp_path))
            assert [sample["txt"] for sample in dataset] == texts, url
    assert len(list(tmp_path.iterdir())) == len(wanted)


def test_curl_saves_each_result_to_a_file_of_its_own(wanted: dict[str, list[bytes]], tmp_path: Path) -> None:
    for url, texts in wanted.items():
        before = set(tmp_path.iterdir())
        subprocess.run(["curl", "-fsSO", url], check=True, cwd=tmp_path)
        (made,) = set(tmp_path.iterdir()) - before
        assert made.name.endswith(".tar")
        with tarfile.open(made) as tar:
            assert [tar.extractfile(member).read() for member in tar if member.isfile()] == texts  # type: ignore[union-attr]


def test_the_form_without_a_tag_is_the_same_result(client: shardgate.Client) -> None:
    id_ = WDTransform(client, upper, "upper", workers=1).uuid
    url = f"{client.endpoint}/v1/objects/b/train/s.tar?provider=file&transform_id={id_}"
    found = subprocess.run(["curl", "-fsS", url], check=True, capture_output=True).stdout
    assert found == client.get("file://b", "train/s.tar", transform_id=id_)


def test_what_is_written_goes_by_its_own_name(client: shardgate.Client) -> None:
    url = f"{client.endpoint}/v1/objects/b/s.T.tar?provider=file&tag=T"
    for method in ("PUT", "DELETE"):
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-d", "x", url]
        assert subprocess.run(command, check=True, capture_output=True).stdout == b"400"
