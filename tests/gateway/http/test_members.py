"""`archpath=`: members of tars, raw and transformed; what costs nothing must cost nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from gateway_process import GatewayProcess, running_gateway
from readers import curl
from servers_faulty import FaultyOrigin

from shardgate import Client, WDTransform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from readers import Answer

BODIES = {"a.txt": b"one", "b.txt": b"two"}


def tar_of(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, body in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def shout(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "txt": sample["txt"].upper()}


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(origin: FaultyOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("members")
    buckets: dict[str, Any] = {
        "http://b": {"where": origin.url, "freshness": "always"},
        "file://f": {"where": str(folder / "f"), "freshness": "always"},
    }
    (folder / "f").mkdir()
    with running_gateway(folder / "gateway", buckets) as running:
        yield running


@pytest.fixture(scope="module")
def transform(gateway: GatewayProcess) -> str:
    return WDTransform(Client(gateway.endpoint), shout, "shout", workers=1).uuid


def get(gateway: GatewayProcess, key: str, member: str, *options: str, **query: Any) -> Answer:
    return curl(gateway.url("http://b", key, archpath=member, **query), *options)


def test_a_head_of_a_member_fetches_nothing(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("head.tar", tar_of(BODIES))
    before = get(gateway, "head.tar", "a.txt", "-I")
    assert (before.status, "content-length" in before.headers) == (200, False)
    assert origin.bytes_sent("head.tar") == 0
    whole = get(gateway, "head.tar", "a.txt")
    assert (whole.body, whole.headers["etag"]) == (b"one", before.headers["etag"])
    after = get(gateway, "head.tar", "a.txt", "-I")
    assert (after.headers["content-length"], after.headers["etag"]) == ("3", before.headers["etag"])
    assert get(gateway, "head.tar", "nobody", "-I").status == 404
    assert origin.bytes_sent("head.tar") == len(tar_of(BODIES))


def test_a_head_after_the_archive_was_overwritten_fetches_nothing(
    gateway: GatewayProcess, origin: FaultyOrigin
) -> None:
    origin.put("over.tar", tar_of(BODIES), etag="v1")
    first = get(gateway, "over.tar", "a.txt")
    origin.put("over.tar", tar_of({"a.txt": b"another"}), etag="v2")
    sent = origin.bytes_sent("over.tar")
    head = get(gateway, "over.tar", "a.txt", "-I")
    assert head.headers["etag"] != first.headers["etag"]
    assert "content-length" not in head.headers
    assert origin.bytes_sent("over.tar") == sent


def test_conditions_on_a_member_fetch_nothing(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("cold.tar", tar_of(BODIES))
    etag = get(gateway, "cold.tar", "a.txt", "-I").headers["etag"]
    assert get(gateway, "cold.tar", "a.txt", "-H", f"If-None-Match: {etag}").status == 304
    assert get(gateway, "cold.tar", "a.txt", "-H", 'If-Match: "other"').status == 412
    assert origin.bytes_sent("cold.tar") == 0
    assert get(gateway, "cold.tar", "a.txt", "-H", f"If-Match: {etag}").body == b"one"
    assert get(gateway, "cold.tar", "b.txt", "-H", f"If-None-Match: {etag}").body == b"two"
    assert get(gateway, "cold.tar", "nobody", "-H", "If-None-Match: *").status == 404
    part = get(gateway, "cold.tar", "a.txt", "-r", "1-", "-H", f"If-Match: {etag}", "-H", f"If-Range: {etag}")
    assert (part.status, part.body) == (206, b"ne")


def test_neither_head_nor_condition_on_a_member_of_a_result_computes_it(
    gateway: GatewayProcess, origin: FaultyOrigin, transform: str
) -> None:
    origin.put("t.tar", tar_of(BODIES))
    head = get(gateway, "t.tar", "a.txt", "-I", transform_id=transform)
    etag = head.headers["etag"]
    assert "content-length" not in head.headers
    assert get(gateway, "t.tar", "a.txt", "-H", f"If-None-Match: {etag}", transform_id=transform).status == 304
    assert get(gateway, "t.tar", "a.txt", "-H", 'If-Match: "other"', transform_id=transform).status == 412
    assert origin.bytes_sent("t.tar") == 0
    found = get(gateway, "t.tar", "a.txt", "-H", f"If-Match: {etag}", transform_id=transform)
    assert (found.status, found.body, found.headers["etag"]) == (200, b"ONE", etag)
    after = get(gateway, "t.tar", "a.txt", "-I", transform_id=transform)
    assert (after.headers["content-length"], after.headers["etag"]) == ("3", etag)


def test_a_result_has_no_date_by_which_new_code_would_be_nothing_new(
    gateway: GatewayProcess, origin: FaultyOrigin
) -> None:
    def first(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "txt": b"1"}

    def second(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "txt": b"2"}

    origin.put("named.tar", tar_of({"a.txt": b"x"}))
    client = Client(gateway.endpoint)
    WDTransform(client, first, "named", workers=1)
    url = gateway.url("http://b", "named.tar", transform_id="named")
    answer = curl(url)
    assert "last-modified" not in answer.headers
    WDTransform(client, second, "named", workers=1)
    again = curl(url, "-H", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT")
    assert (again.status, again.body != answer.body) == (200, True)
    ranged = curl(url, "-r", "10-", "-H", "If-Range: Tue, 14 Nov 2023 22:13:20 GMT")
    assert (ranged.status, ranged.body) == (200, again.body)


@pytest.mark.parametrize("tool", ["gnu", "pax"])
def test_members_of_a_folder_that_was_packed_by_its_dot_have_their_plain_names(
    gateway: GatewayProcess, tmp_path: Path, tool: str
) -> None:
    if shutil.which("tar") is None:
        pytest.skip("there is no tar program")
    (tmp_path / "d").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one")
    (tmp_path / "d" / "b.txt").write_bytes(b"two")
    archive = gateway.cache.parent.parent / "f" / f"dot-{tool}.tar"
    subprocess.run(["tar", f"--format={tool}", "-cf", str(archive), "."], check=True, cwd=tmp_path)
    for name, body in {"a.txt": b"one", "./a.txt": b"one", "d/b.txt": b"two", "./d/b.txt": b"two"}.items():
        answer = curl(gateway.url("file://f", archive.name, archpath=name))
        assert (answer.status, answer.body) == (200, body)


def test_a_name_that_is_there_wins_over_one_that_is_only_alike(gateway: GatewayProcess, origin: FaultyOrigin) -> None:
    origin.put("alike.tar", tar_of({"a.txt": b"plain", "./a.txt": b"dotted"}))
    assert get(gateway, "alike.tar", "a.txt").body == b"plain"
    assert get(gateway, "alike.tar", "./a.txt").body == b"dotted"
    origin.put("plain.tar", tar_of({"a.txt": b"plain"}))
    assert get(gateway, "plain.tar", "./a.txt").body == b"plain"


def test_a_sparse_member_hides_no_other_one(gateway: GatewayProcess, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("there is no tar program")
    with (tmp_path / "hole.bin").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(0, 2)
        file.write(b"end")
    (tmp_path / "a.txt").write_bytes(b"one")
    for form in ("gnu", "pax"):
        archive = gateway.cache.parent.parent / "f" / f"sparse-{form}.tar"
        command = ["tar", f"--format={form}", "--sparse", "-cf", str(archive), "hole.bin", "a.txt"]
        subprocess.run(command, check=True, cwd=tmp_path)
        assert curl(gateway.url("file://f", archive.name, archpath="a.txt")).body == b"one"
        assert curl(gateway.url("file://f", archive.name, archpath="hole.bin")).status == 404
