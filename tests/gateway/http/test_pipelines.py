"""`transform_id=A,B` through a whole gateway: bytes, names, errors, lost workers, and who waits for whom."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from container_server import command, turned
from gateway_process import GatewayProcess, eventually, running_gateway
from readers import curl
from shards import shard

from shardgate import BadRequest, BytesTransform, NotFound, Pipeline, TransformFailed, WDTransform
from shardgate.capture import capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shardgate.transform import Transform

BUCKET = "gcp://data"
SAMPLES = 60
RAW = shard(SAMPLES, size=30_000)


def swap(sample: dict[str, Any]) -> dict[str, Any]:
    sample["bin"] = sample["bin"][::-1]
    return sample


def noise(sample: dict[str, Any]) -> dict[str, Any]:
    import random

    sample["txt"] = str(random.random())
    return sample


def suffix(sample: dict[str, Any], args: str) -> dict[str, Any]:
    sample["args"] = args.encode()
    return sample


def stumble(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["__key__"] == "000040":
        raise ValueError("no forty")
    return sample


def slow(sample: dict[str, Any]) -> dict[str, Any]:
    import time

    time.sleep(0.02)
    return sample


def shout(data: bytes) -> bytes:
    return data.translate(bytes(255 - value for value in range(256)))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "data").mkdir()
    (folder / "data" / "a.tar").write_bytes(RAW)
    with running_gateway(
        folder / "gateway", {BUCKET: folder / "data"}, workers=2, settings={"etl.workers": 1}
    ) as running:
        yield running


def made(gateway: GatewayProcess, function: Any, **how: Any) -> WDTransform:
    return WDTransform(gateway.client, function, wd_decoder="", **{"cache": "never", **how})


def one_by_one(gateway: GatewayProcess, *stages: Transform) -> bytes:
    """What the pipeline must give, by way of the bucket."""
    body = RAW
    for stage in stages:
        gateway.client.put(BUCKET, "step.tar", body)
        body = stage.get(BUCKET, "step.tar")
    return body


def test_a_pipeline_gives_what_its_stages_give_one_after_the_other(gateway: GatewayProcess) -> None:
    a, b = made(gateway, swap), made(gateway, suffix)
    c = BytesTransform(gateway.client, shout, cache="never")
    pipeline = a >> b >> c
    assert isinstance(pipeline, Pipeline)
    assert pipeline.uuid == f"{a.uuid},{b.uuid},{c.uuid}"
    assert pipeline.get(BUCKET, "a.tar") == one_by_one(gateway, a, b, c)
    assert (a >> (b >> c)).uuid == pipeline.uuid
    answer = curl(gateway.client.object_url(BUCKET, "a.tar", transform_id="swap,suffix,shout"))
    assert answer.headers["x-shardgate-transform"] == pipeline.uuid
    assert answer.body == pipeline.get(BUCKET, "a.tar")
    eventually(lambda: [stage.stats()["completed"] for stage in (a, b, c)] == [4, 4, 4])
    kept = [path for path in (gateway.cache / "entries").rglob("*") if path.is_file()]
    assert len(kept) == 2, "the two raw objects, and nothing of what was made of them"


def test_identity_follows_all_stages_their_args_and_the_seed(gateway: GatewayProcess) -> None:
    a, b, c = made(gateway, swap), made(gateway, suffix), made(gateway, noise)
    client = gateway.client
    variants = [
        {"transform_id": (a >> b).uuid},
        {"transform_id": (b >> a).uuid},
        {"transform_id": (c >> b).uuid},
        {"transform_id": (a >> b).uuid, "seed": 1},
        {"transform_id": (a >> b).uuid, "epoch": 1},
        {"transform_id": (a >> b).uuid, "args": {"suffix": "x"}},
        {"transform_id": b.uuid},
    ]
    etags = [client.head(BUCKET, "a.tar", **variant).etag for variant in variants]
    assert len(set(etags)) == len(etags)
    same = client.head(BUCKET, "a.tar", transform_id=(a >> b).uuid, args={b.uuid: "x"}).etag
    assert same == etags[5]
    url = client.object_url(BUCKET, "a.tar", transform_id=(a >> b).uuid)
    assert curl(url, "-H", f'If-None-Match: "{etags[0]}"').status == 304
    assert parse_qs(urlsplit(url).query)["transform_id"] == [(a >> b).uuid]
    assert "," not in url


def test_the_randomness_of_each_stage_follows_seed_and_epoch(gateway: GatewayProcess) -> None:
    pipeline = made(gateway, swap) >> made(gateway, noise)
    first = pipeline.get(BUCKET, "a.tar", seed=1, epoch=2)
    assert pipeline.get(BUCKET, "a.tar", seed=1, epoch=2) == first
    assert pipeline.get(BUCKET, "a.tar", seed=1, epoch=3) != first
    assert pipeline.get(BUCKET, "a.tar", seed=2, epoch=2) != first


def test_args_go_to_the_stage_that_they_name(gateway: GatewayProcess) -> None:
    a, b = made(gateway, swap), made(gateway, suffix)
    client, pipeline = gateway.client, a >> b
    assert b"deep" in pipeline.get(BUCKET, "a.tar", args={"suffix": {"deep": [1, 2]}})
    assert b'{"deep":[1,2]}' in (b >> a).get(BUCKET, "a.tar", args={"suffix": {"deep": [1, 2]}})
    assert b'{"deep":[1]}' in (b >> a).get(BUCKET, "a.tar", args={"suffix": '{ "deep": [1] }'}), "JSON in a string"
    for args, message in (
        ("text", "args does not say which transform it is for"),
        ({"shout": 1}, "'shout', which is no stage"),
        ({"swap": 1}, f"transform {a.uuid} takes no args"),
        ({"suffix": 1, b.uuid: 2}, "twice"),
        ('{"suffix": 1', "begins like JSON"),
    ):
        with pytest.raises(BadRequest, match=message):
            client.get(BUCKET, "a.tar", transform_id=pipeline.uuid, args=args)


def test_what_can_not_be_a_pipeline_is_refused(gateway: GatewayProcess) -> None:
    a, b = made(gateway, swap), made(gateway, suffix)
    client = gateway.client
    with pytest.raises(BadRequest, match="stands twice"):
        (a >> b >> a).get(BUCKET, "a.tar")
    with pytest.raises(NotFound, match="there is no transform 'nothing'"):
        client.get(BUCKET, "a.tar", transform_id=f"{a.uuid},nothing")
    with pytest.raises(BadRequest, match="empty stage"):
        client.get(BUCKET, "a.tar", transform_id=f"{a.uuid},")
    with pytest.raises(BadRequest, match="9 stages"):
        client.get(BUCKET, "a.tar", transform_id=",".join([a.uuid] * 9))


def test_ranges_members_and_repeats_are_served_from_the_cache(gateway: GatewayProcess) -> None:
    a = made(gateway, swap)
    b = made(gateway, suffix, cache="always", transform_name="kept")
    url = gateway.client.object_url(BUCKET, "a.tar", transform_id=(a >> b).uuid)
    whole = curl(url).body
    part = curl(url, "-H", "Range: bytes=1000-1999")
    assert (part.status, part.body) == (206, whole[1000:2000])
    member = gateway.client.get(BUCKET, "a.tar", transform_id=(a >> b).uuid, archpath="000003.bin")
    assert member == gateway.client.get(BUCKET, "a.tar", archpath="000003.bin")[::-1]
    eventually(lambda: b.stats()["completed"] == 1)


def test_errors_name_the_stage(gateway: GatewayProcess) -> None:
    a, b, bad = made(gateway, swap), made(gateway, suffix), made(gateway, stumble)
    for pipeline, stage in ((bad >> a >> b, 1), (a >> bad >> b, 2), (a >> b >> bad, 3)):
        answer = curl(gateway.client.object_url(BUCKET, "a.tar", transform_id=pipeline.uuid))
        assert answer.exit, "the body broke off"
        expected = f'stage {stage} of 3, {bad.uuid}: ValueError: no forty (sample 40, "000040"'
        eventually(lambda expected=expected: expected in gateway.said)


def test_an_error_before_the_first_byte_is_a_problem_with_the_stage_in_it(gateway: GatewayProcess) -> None:
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        raise LookupError("never")

    a, bad = made(gateway, swap), made(gateway, refuse)
    with pytest.raises(TransformFailed, match=f"stage 1 of 2, {bad.uuid}: .*LookupError: never"):
        (bad >> a).get(BUCKET, "a.tar")
    _, package = capture(Unborn, decoder="", name="unborn")
    gateway.client.transforms.register(package)
    with pytest.raises(TransformFailed, match=r"(?s)stage 2 of 2, unborn-.*not today"):
        gateway.client.get(BUCKET, "a.tar", transform_id=f"{a.uuid},unborn")


class Unborn:
    def setup(self) -> None:
        raise RuntimeError("not today")

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample


def test_workers_of_both_stages_may_be_killed(gateway: GatewayProcess) -> None:
    a, b = made(gateway, slow), made(gateway, noise)
    pipeline = a >> b
    whole = pipeline.get(BUCKET, "a.tar", epoch=1)
    stop = threading.Event()

    def kill() -> None:
        for _ in range(3):
            time.sleep(0.4)
            for pid in () if stop.is_set() else gateway.etl_workers():
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert pipeline.get(BUCKET, "a.tar", epoch=1) == whole
    finally:
        stop.set()
        thread.join()
    eventually(lambda: a.stats()["lost"] + b.stats()["lost"] > 0)


@pytest.mark.parametrize("orders", [((0, 1),), ((0, 1), (1, 0))], ids=["one order", "both orders"])
def test_many_readers_of_pipelines_with_one_worker_each_all_get_through(
    gateway: GatewayProcess, orders: tuple[tuple[int, int], ...]
) -> None:
    stages = made(gateway, swap), made(gateway, noise)
    pipelines = [stages[first] >> stages[second] for first, second in orders]
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(pipelines[n % len(pipelines)].get, BUCKET, "a.tar", epoch=n // 4) for n in range(16)]
        bodies = [read.result() for read in reads]
    for n, body in enumerate(bodies):
        assert body == bodies[n // 4 * 4 + n % len(pipelines)]


def test_readers_of_three_stages_in_all_orders_get_through(gateway: GatewayProcess) -> None:
    """Each worker is wanted as the first, the second and the last one of a pipeline."""
    a, b, c = (made(gateway, function) for function in (swap, noise, slow))
    pipelines = [a >> b >> c, b >> c >> a, c >> a >> b]
    expected = [pipeline.get(BUCKET, "a.tar", epoch=0) for pipeline in pipelines]
    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(pipelines[n % 3].get, BUCKET, "a.tar", epoch=0) for n in range(6)]
        bodies = [read.result() for read in reads]
    assert bodies == expected * 2


def test_a_container_is_a_stage_like_any_other(gateway: GatewayProcess, tmp_path: Path) -> None:
    a = made(gateway, slow)
    c = gateway.client.etl_from_image(command=command(tmp_path), name="turn", cache="never")
    d = gateway.client.etl_from_image(command=command(tmp_path), name="back", cache="never", method="get")
    straight = a.get(BUCKET, "a.tar")
    assert (a >> c).get(BUCKET, "a.tar") == turned(straight)
    assert (c >> d >> a).get(BUCKET, "a.tar") == straight
    assert (a >> c).get(BUCKET, "a.tar", args={"turn": {"cut": 500_000}}) == turned(straight)
    eventually(lambda: c.stats()["lost"] == 1)
    faults = tmp_path / "faults"
    faults.unlink()
    # The Python stage can't trust the rest of a second input: it begins again, and what it gave is compared.
    got = (c >> d >> a).get(BUCKET, "a.tar", args={"back": {"cut": 900_000}})
    assert got == straight
    with pytest.raises(TransformFailed, match=r"stage 1 of 2, turn-.*the container answered 422: no"):
        (c >> a).get(BUCKET, "a.tar", args={"turn": {"status": 422, "say": "no"}})
    answer = curl(gateway.client.object_url(BUCKET, "a.tar", transform_id=(c >> d >> a).uuid))
    assert answer.headers["etag"].startswith("W/")
    assert json.dumps(c.stats())
