"""Two gateways over one PostgreSQL: what one registers the other has, and a server that dies costs clear 503s."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from gateway_process import eventually, running_gateway
from readers import Answer, curl
from servers_postgres import start_postgres

from shardgate.capture import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway_process import GatewayProcess
    from servers_postgres import Postgres

pytestmark = pytest.mark.servers


def shout(sample: dict[str, Any]) -> dict[str, Any]:
    sample["txt"] = sample["txt"].upper()
    return sample


def whisper(sample: dict[str, Any]) -> dict[str, Any]:
    sample["txt"] = sample["txt"].lower()
    return sample


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One that may be killed."""
    with start_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, server: Postgres) -> Iterator[list[GatewayProcess]]:
    """Two that share a database and a bucket, and no folder."""
    tmp_path = tmp_path_factory.mktemp("shared")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "a.tar", "w") as tar:
        member = tarfile.TarInfo("0.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    settings = {"state.database": server.create(), "etl.workers": 1}
    buckets: dict[str, Any] = {"gcp://data": {"where": str(tmp_path / "data"), "freshness": "immutable"}}
    with (
        running_gateway(tmp_path / "one", buckets, settings=settings) as one,
        running_gateway(tmp_path / "two", buckets, settings=settings) as two,
    ):
        yield [one, two]


def register(gateway: GatewayProcess, function: Callable[..., Any] | None = None) -> dict[str, Any]:
    """`shout` under its own name, or any function as `voice`."""
    path = gateway.cache.parent / "package"
    path.write_bytes(capture(function or shout, name="voice" if function else "", decoder="")[1])
    answer = curl(f"{gateway.endpoint}/v1/transforms?cache=never", "--data-binary", f"@{path}")
    assert answer.status in {200, 201}, answer.body
    return dict(json.loads(answer.body))


def show(gateway: GatewayProcess, name: str) -> Answer:
    return curl(f"{gateway.endpoint}/v1/transforms/{name}")


def test_gateways_share_transforms_packages_and_stats(gateways: list[GatewayProcess]) -> None:
    one, two = gateways
    made = register(one)
    assert json.loads(show(two, "shout").body)["id"] == made["id"]
    packages = [curl(f"{gateway.endpoint}/v1/transforms/shout/package").body for gateway in gateways]
    assert packages[0] == packages[1] == (one.cache.parent / "package").read_bytes()
    assert not (one.state / "packages").exists()
    for gateway in gateways:
        assert b"HELLO" in curl(gateway.url("gcp://data", "a.tar", transform_id=made["id"])).body

    def summed() -> bool:
        """Each gateway writes its sums within a second."""
        stats = [json.loads(curl(f"{g.endpoint}/v1/transforms/shout/stats").body) for g in gateways]
        return all((found["completed"], found["samples_out"]) == (2, 2) for found in stats)

    eventually(summed)
    assert curl(f"{two.endpoint}/v1/transforms/{made['id']}", "-X", "DELETE").status == 204
    eventually(lambda: show(one, "shout").status == 404)


def test_what_one_gateway_is_told_the_other_says_at_once(gateways: list[GatewayProcess]) -> None:
    """Also where it has just said something else."""
    one, two = gateways
    for teller, other in ((one, two), (two, one)):
        for function in (shout, whisper):
            made = register(teller, function)
            assert json.loads(show(other, "voice").body)["id"] == made["id"]
            assert curl(f"{other.endpoint}/v1/transforms/{made['id']}/stats").status == 200
    assert curl(f"{one.endpoint}/v1/transforms/{made['id']}", "-X", "DELETE").status == 204
    assert show(two, made["id"]).status == 404


def test_a_database_that_dies_under_requests_costs_clear_errors_and_then_nothing(
    gateways: list[GatewayProcess], server: Postgres
) -> None:
    one, _ = gateways
    made = register(one)
    transformed = one.url("gcp://data", "a.tar", transform_id=made["id"])
    raw = curl(one.url("gcp://data", "a.tar")).body
    first = curl(transformed).body
    answers: list[Answer] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            answers.append(show(one, made["id"]))
            answers.append(curl(f"{one.endpoint}/v1/transforms"))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        server.kill()
        eventually(lambda: curl(f"{one.endpoint}/v1/transforms").status == 503)
        for _ in range(3):
            assert curl(one.url("gcp://data", "a.tar")).body == raw
            time.sleep(1.1)  # longer than a lookup is remembered
            assert curl(transformed).body == first
        server.start()
        eventually(lambda: curl(f"{one.endpoint}/v1/transforms").status == 200)
    finally:
        done.set()
        asking.join()
    assert {answer.status for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status == 503:
            said = json.loads(answer.body)
            assert (said["code"], "database postgresql" in said["message"]) == ("local_storage", True)
            assert answer.headers["retry-after"]
    register(one)
    assert curl(transformed).body == first
