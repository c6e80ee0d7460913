"""Transforms over HTTP: registered, started, asked about, and applied by a GET."""

from __future__ import annotations

import io
import json
import socket
import tarfile
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from gateway_process import eventually, running_gateway
from readers import curl, send_raw

from shardgate import Client, wire
from shardgate.capture import capture
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.registry import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway_process import GatewayProcess
    from readers import Answer

SAMPLES = 40


def note(sample: dict[str, Any], args: str) -> dict[str, Any]:
    sample["txt"] = args
    return sample


def shout(sample: dict[str, Any]) -> dict[str, Any]:
    sample["txt"] = sample["txt"].upper() * 500
    return sample


def stumble(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["__key__"] == "0030":
        raise ValueError("no thirty")
    sample["txt"] = sample["txt"] * 100_000
    return sample


def refuse(sample: dict[str, Any]) -> dict[str, Any]:
    raise LookupError(f"not {sample['__key__']}")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("transforms")
    (folder / "data").mkdir()
    with tarfile.open(folder / "data" / "a.tar", "w") as tar:
        for index in range(SAMPLES):
            body = f"sample {index}".encode()
            member = tarfile.TarInfo(f"{index:04d}.txt")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    with running_gateway(folder / "gateway", {"gcp://data": folder / "data"}) as running:
        yield running


def register(gateway: GatewayProcess, package: bytes, query: str = "") -> Answer:
    path = gateway.cache.parent / "package"
    path.write_bytes(package)
    return curl(f"{gateway.endpoint}/v1/transforms?{query}", "--data-binary", f"@{path}")


def registered(gateway: GatewayProcess, function: Callable[..., Any], query: str = "", **how: Any) -> dict[str, Any]:
    answer = register(gateway, capture(function, **{"decoder": "", **how})[1], query)
    assert answer.status in {200, 201}, answer.body
    record: dict[str, Any] = json.loads(answer.body)
    return record


def get(gateway: GatewayProcess, transform: str, *options: str, **query: Any) -> Answer:
    return curl(gateway.url("gcp://data", "a.tar", transform_id=transform, **query), *options)


def get_raw(gateway: GatewayProcess) -> Answer:
    return curl(gateway.url("gcp://data", "a.tar"))


def texts(body: bytes) -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]


def test_lists_have_pages_without_sources_and_the_client_follows_them(gateway: GatewayProcess, tmp_path: Path) -> None:
    before = len(Client(gateway.endpoint).transforms.list())
    package = tmp_path / "package"
    ids = []
    for index in range(PAGE + 1):
        manifest = wire.Manifest("listed", python="3.11", source="def f(): ...")
        package.write_bytes(wire.pack_package(manifest, str(index).encode()))
        answer = curl(f"{gateway.endpoint}/v1/transforms", "--data-binary", f"@{package}")
        assert answer.status == 201, answer.body
        ids.append(json.loads(answer.body)["id"])
    try:
        listed = Client(gateway.endpoint).transforms.list()
        assert len(listed) == before + PAGE + 1
        assert [record["id"] for record in listed[: PAGE + 1]] == ids[::-1]
        assert all("source" not in record["manifest"] for record in listed)
        assert Client(gateway.endpoint).transforms.show(ids[0])["manifest"]["source"] == "def f(): ..."
        first = curl(f"{gateway.endpoint}/v1/transforms?limit=2")
        assert [record["id"] for record in json.loads(first.body)] == [ids[-1], ids[-2]]
        assert first.headers["link"].endswith('>; rel="next"')
        for query in (f"limit={PAGE + 1}", "limit=0", "token=x", "offset=1"):
            assert curl(f"{gateway.endpoint}/v1/transforms?{query}").status == 400
    finally:
        for one in ids:
            Client(gateway.endpoint).transforms.delete(one)


def test_a_package_is_new_once_and_then_known(gateway: GatewayProcess) -> None:
    package = capture(shout, decoder="", name="once")[1]
    first, second = register(gateway, package), register(gateway, package, "cache=never&workers=1")
    assert (first.status, second.status) == (201, 200)
    record = json.loads(second.body)
    assert record["id"].startswith("once-")
    assert record["options"] == TransformOptions(cache="never", workers=1).model_dump(mode="json")
    assert curl(f"{gateway.endpoint}/v1/transforms/once/package").body == package
    assert record["id"] in [entry["id"] for entry in json.loads(curl(f"{gateway.endpoint}/v1/transforms").body)]
    assert curl(f"{gateway.endpoint}/v1/transforms/{record['id']}", "-X", "DELETE").status == 204
    assert curl(f"{gateway.endpoint}/v1/transforms/{record['id']}").status == 404


@pytest.mark.parametrize(("package", "query"), [(b"nonsense", ""), (b"", ""), (None, "cache=maybe"), (None, "x=1")])
def test_what_can_not_be_registered_is_a_clear_400(gateway: GatewayProcess, package: bytes | None, query: str) -> None:
    answer = register(gateway, capture(shout, decoder="")[1] if package is None else package, query)
    assert answer.status == 400
    assert json.loads(answer.body)["message"]


def test_a_package_that_is_too_large_is_refused_before_it_is_read(gateway: GatewayProcess) -> None:
    start = f"POST /v1/transforms HTTP/1.1\r\nHost: g\r\nContent-Length: {1 << 40}\r\nConnection: close\r\n\r\n"
    answer = send_raw(gateway.endpoint, start.encode())
    assert answer.status == 413
    assert "etl.package_bytes" in json.loads(answer.body)["hint"]


def test_an_unknown_transform_is_404_everywhere(gateway: GatewayProcess) -> None:
    assert get(gateway, "nobody").status == 404
    for path in ("", "/package", "/logs", "/stats"):
        assert curl(f"{gateway.endpoint}/v1/transforms/nobody{path}").status == 404
    assert curl(f"{gateway.endpoint}/v1/transforms/nobody/start", "-X", "POST").status == 404


def test_a_result_is_streamed_then_kept_then_an_object_like_any_other(gateway: GatewayProcess) -> None:
    record = registered(gateway, shout, "cache=auto")
    first = get(gateway, record["id"])
    assert (first.exit, first.status, first.headers["x-shardgate-cache"]) == (0, 200, "computed")
    assert first.headers["x-shardgate-transform"] == record["id"]
    assert first.headers["content-type"] == "application/x-tar"
    assert "content-length" not in first.headers
    assert texts(first.body) == [f"SAMPLE {index}".encode() * 500 for index in range(SAMPLES)]
    eventually(lambda: get(gateway, record["id"]).headers["x-shardgate-cache"] == "hit")
    again = get(gateway, record["id"])
    assert (again.body, again.headers["etag"]) == (first.body, first.headers["etag"])
    assert again.headers["content-length"] == str(len(first.body))
    part = get(gateway, record["id"], "-r", "512-1023")
    assert (part.status, part.body) == (206, first.body[512:1024])
    assert get(gateway, record["id"], "-I").headers["content-length"] == str(len(first.body))
    assert get(gateway, record["id"], archpath="0003.txt").body == b"SAMPLE 3" * 500


def test_a_kept_result_is_served_without_fetching_its_evicted_shard_again(gateway: GatewayProcess) -> None:
    record = registered(gateway, shout, "cache=always", name="kept-alone")
    first = get(gateway, record["id"])
    evicted = curl(
        f"{gateway.endpoint}/v1/cache/evict?bucket=data&provider=gcp&object=a.tar&results=false", "-X", "POST"
    )
    assert evicted.status == 200, evicted.body
    again = get(gateway, record["id"])
    assert again.headers["x-shardgate-cache"] == "hit"
    assert again.body == first.body
    assert get_raw(gateway).headers["x-shardgate-cache"] == "miss"


def test_results_never_outlive_the_eviction_of_their_object(gateway: GatewayProcess) -> None:
    record = registered(gateway, shout, "cache=always", name="evicted")
    other = registered(gateway, shout, "cache=always", name="evicted-too")
    for transform in (record, other):
        get(gateway, transform["id"])
        get(gateway, transform["id"], epoch=1)
    evicted = curl(f"{gateway.endpoint}/v1/cache/evict?bucket=data&provider=gcp&object=a.tar", "-X", "POST")
    assert json.loads(evicted.body)["evicted"] >= 5
    for transform in (record, other):
        assert get(gateway, transform["id"]).headers["x-shardgate-cache"] == "miss"


def test_results_never_outlive_their_registration(gateway: GatewayProcess) -> None:
    record = registered(gateway, shout, "cache=always", name="buried")
    first = get(gateway, record["id"])
    assert get(gateway, record["id"]).headers["x-shardgate-cache"] == "hit"
    assert curl(f"{gateway.endpoint}/v1/transforms/{record['id']}", "-X", "DELETE").status == 204
    assert registered(gateway, shout, "cache=always", name="buried")["id"] == record["id"]
    again = get(gateway, record["id"])
    assert again.headers["x-shardgate-cache"] == "miss"
    assert again.headers["etag"] != first.headers["etag"]


def environment_text(sample: dict[str, Any]) -> dict[str, Any]:
    import os

    return {"txt": os.environ.get("MODEL", "none") * 300}


def test_other_environment_variables_never_answer_with_the_results_of_before(gateway: GatewayProcess) -> None:
    seen = []
    for model, actions in (("a", ()), ("b", ("stop", "start")), ("a", ("stop", "start"))):
        option = quote(json.dumps({"MODEL": model}))
        record = registered(gateway, environment_text, f"cache=always&env={option}", name="modelled")
        for action in actions:
            assert curl(f"{gateway.endpoint}/v1/transforms/{record['id']}/{action}", "-X", "POST").status == 200
        answer = get(gateway, record["id"])
        assert model.encode() * 300 in answer.body
        seen.append((answer.headers["etag"], answer.headers["x-shardgate-cache"]))
    assert [cache for _, cache in seen] == ["miss", "miss", "hit"]
    assert seen[0][0] == seen[2][0] != seen[1][0]
    registered(gateway, environment_text, f"cache=always&env={quote(json.dumps({'MODEL': 'later'}))}", name="modelled")
    running = get(gateway, record["id"])
    assert running.headers["etag"] == seen[2][0], "what runs was started with the old ones"
    assert b"a" * 300 in running.body


def test_the_etag_is_known_before_anything_is_computed(gateway: GatewayProcess) -> None:
    record = registered(gateway, note, name="unrun")
    head = get(gateway, "unrun", "-I", epoch=1)
    assert head.status == 200
    assert "content-length" not in head.headers
    assert get(gateway, "unrun", "-H", f"If-None-Match: {head.headers['etag']}", epoch=1).status == 304
    assert get(gateway, "unrun", "-H", 'If-Match: "other"', epoch=1).status == 412
    others = [{"epoch": 2}, {"epoch": 1, "seed": 1}, {"epoch": 1, "args": "x"}]
    etags = {get(gateway, "unrun", "-I", **query).headers["etag"] for query in [{"epoch": 1}, *others]}
    assert len(etags) == 4
    described = json.loads(curl(f"{gateway.endpoint}/v1/transforms/{record['id']}").body)
    assert described["generation"]
    assert described["environment"]["python"]
    stats = json.loads(curl(f"{gateway.endpoint}/v1/transforms/{record['id']}/stats").body)
    assert (stats["samples_in"], stats["completed"]) == (0, 0)


def test_a_range_of_a_result_that_is_not_kept_yet_is_computed_and_cut(gateway: GatewayProcess) -> None:
    registered(gateway, shout, "cache=always", name="ranged")
    part = get(gateway, "ranged", "-r", "512-1023", seed=5)
    assert part.status == 206
    assert part.body == get(gateway, "ranged", seed=5).body[512:1024]


def dawdle(sample: dict[str, Any], args: str) -> dict[str, Any]:
    import time

    with open(args, "a") as calls:  # noqa: PTH123
        calls.write("x")
    time.sleep(0.5)
    return sample


@pytest.mark.parametrize("policy", ["auto", "always"])
@pytest.mark.parametrize("part", ["Range: bytes=0-9", "archpath=0039.txt"])
def test_a_result_is_not_computed_to_its_end_for_a_reader_that_left(
    gateway: GatewayProcess, tmp_path: Path, policy: str, part: str
) -> None:
    record = registered(gateway, dawdle, f"cache={policy}", name="dawdle")
    calls = tmp_path / "calls"
    url = urlsplit(gateway.url("gcp://data", "a.tar", transform_id=record["id"], args=str(calls)))
    query, header = (f"{url.query}&{part}", "Accept: *") if "=0039" in part else (url.query, part)
    with socket.create_connection((url.hostname, url.port)) as reader:
        reader.sendall(f"GET {url.path}?{query} HTTP/1.1\r\nHost: g\r\n{header}\r\n\r\n".encode())
        eventually(calls.exists, what="the beginning of the result")
    counts = f"{gateway.endpoint}/v1/cache"
    eventually(lambda: json.loads(curl(counts).body)["filling"] == 0, what="the end of the fetch")
    assert calls.stat().st_size < SAMPLES


def test_a_result_that_is_never_kept_comes_whole_also_for_a_range(gateway: GatewayProcess) -> None:
    registered(gateway, shout, "cache=never", name="never")
    bodies = set()
    for _ in range(3):
        answer = get(gateway, "never", "-r", "0-9")
        assert (answer.status, answer.headers["x-shardgate-cache"]) == (200, "computed")
        bodies.add(answer.body)
    assert len(bodies) == 1
    assert get(gateway, "never", archpath="0001.txt").status == 400


def test_a_sample_that_fails_in_the_middle_breaks_the_body_off(gateway: GatewayProcess) -> None:
    registered(gateway, stumble, "cache=never", name="stumble")
    answer = get(gateway, "stumble")
    assert answer.status == 200
    assert answer.exit != 0


def test_a_sample_that_fails_first_is_named_with_its_error(gateway: GatewayProcess) -> None:
    registered(gateway, refuse, "cache=never", name="refuse")
    answer = get(gateway, "refuse")
    assert answer.status == 422
    problem = json.loads(answer.body)
    assert problem["code"] == "sample_failed"
    assert "0000" in problem["message"]
    assert "not 0000" in problem["message"]


def test_a_transform_that_can_not_start_says_why(gateway: GatewayProcess) -> None:
    manifest, _ = capture(shout, decoder="", name="broken")
    record = json.loads(register(gateway, wire.pack_package(manifest, b"this is no pickle")).body)
    answer = curl(f"{gateway.endpoint}/v1/transforms/{record['id']}/start", "-X", "POST")
    assert answer.status == 422
    assert json.loads(answer.body)["code"] == "transform_start_failed"
    assert json.loads(answer.body)["message"]
    shown = json.loads(curl(f"{gateway.endpoint}/v1/transforms/{record['id']}").body)
    assert shown["state"] == "failed"


def test_logs_and_stats_tell_what_was_done(gateway: GatewayProcess) -> None:
    record = registered(gateway, shout, "cache=never", name="counted")
    assert get(gateway, "counted").exit == 0
    stats = json.loads(curl(f"{gateway.endpoint}/v1/transforms/counted/stats").body)
    assert (stats["id"], stats["samples_in"], stats["samples_out"], stats["completed"]) == (record["id"], 40, 40, 1)
    logs = curl(f"{gateway.endpoint}/v1/transforms/counted/logs?tail=5")
    assert logs.status == 200
    assert len(logs.body.splitlines()) <= 5
    assert curl(f"{gateway.endpoint}/v1/transforms/counted/logs?tail=x").status == 400
    assert curl(f"{gateway.endpoint}/v1/transforms/counted/logs?tail=10001").status == 400


def test_a_log_that_fails_while_it_is_followed_ends_by_a_reset_and_not_by_a_second_answer(
    gateway: GatewayProcess,
) -> None:
    record = registered(gateway, shout, name="followed")
    assert get(gateway, "followed").status == 200
    log = gateway.state / "logs" / f"{record['id']}.log"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as follower:
        follower.sendall(b"GET /v1/transforms/followed/logs?follow=true HTTP/1.1\r\nHost: g\r\n\r\n")
        got = follower.recv(1 << 16)
        assert got.startswith(b"HTTP/1.1 200 ")
        log.rename(log.with_suffix(".aside"))
        log.mkdir()
        with pytest.raises(ConnectionResetError):  # noqa: PT012 (what came before it counts)
            while data := follower.recv(1 << 16):
                got += data
    assert got.count(b"HTTP/1.1") == 1
    assert b"0\r\n\r\n" not in got
    assert curl(f"{gateway.endpoint}/v1/transforms/followed/logs").status == 503
    log.rmdir()
