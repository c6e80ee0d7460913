"""One transform, many gateways: made once, stopped for all, cleaned up after, upgraded without a failed read.

One gateway is a process on this machine; the others are runners in this process, side by side, each with its own
connections to the real API server, as so many gateways have them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from gateway_on_host import COMPONENT, HostGateway, Readers, gateway_on_host

import shardgate
from cluster import wait_until
from shardgate import wire
from shardgate.notices import CaptureWarning
from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.errors import Conflict
from shardgate_gateway.etl.environments import Environments
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.environment import EnvironmentBuilder
from shardgate_gateway.etl.kubernetes.objects import Objects
from shardgate_gateway.etl.kubernetes.policy import Policy
from shardgate_gateway.etl.kubernetes.reconciler import Reconciler
from shardgate_gateway.etl.kubernetes.runner import KubernetesRunner, open_runner
from shardgate_gateway.etl.kubernetes.view import open_view
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.transform_record import TransformRecord
from shardgate_gateway.kube.client import open_api
from shardgate_gateway.settings import BucketSettings, Settings, UpstreamSettings, load
from shardgate_gateway.stores.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from cluster import Cluster
    from shardgate_gateway.etl.kubernetes.demand import Demands

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

GENEROUS_SECONDS = 120
"""On a machine that does ten things at a time."""


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, runtime_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostGateway]:
    with (
        cluster.namespace("runner") as namespace,
        gateway_on_host(cluster, namespace, runtime_image, tmp_path_factory.mktemp("runner")) as gateway,
    ):
        gateway.put_shard("a.tar", samples=100, size=2_000)
        yield gateway


def deployments(cluster: Cluster, gateway: HostGateway, name: str) -> list[dict[str, Any]]:
    return cluster.get("deployments", namespace=gateway.namespace, selector=f"shardgate.io/name={name}")


def pods(cluster: Cluster, gateway: HostGateway, name: str) -> list[dict[str, Any]]:
    return cluster.get("pods", namespace=gateway.namespace, selector=f"{COMPONENT},shardgate.io/name={name}")


class talkative:  # noqa: N801 (a transform is called as it is)
    def setup(self) -> None:
        print("set up", flush=True)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        print("looking at", sample["__key__"], flush=True)
        return sample


def wanted_by_ten(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


EMBEDDINGS = os.urandom(50 << 20)


def with_much_in_it(sample: dict[str, Any]) -> dict[str, Any]:
    return {"__key__": sample["__key__"], "txt": hashlib.sha256(EMBEDDINGS).hexdigest()}


def kept_one(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def lost_one(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def unhurried(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.01)
    return sample


def test_what_a_person_sees_of_a_transforms_life(cluster: Cluster, gateway: HostGateway) -> None:
    """Started, read, its log followed, stopped, started again, deleted; and its objects are labelled and restricted."""
    client = gateway.client
    began = time.monotonic()
    id = gateway.register(talkative, env={"GREETING": "hello"}, replicas=2)  # noqa: A001
    print(f"ready after {time.monotonic() - began:.1f} s")
    assert client.transforms.show(id)["state"] in {"ready", "degraded"}
    whole = client.get("gcp://shards", "a.tar", transform_id=id)
    assert "looking at 000099" in client.transforms.logs(id, tail=500)
    followed = client.transforms.follow(id, tail=200)
    seen = ""
    while "looking at 000099" not in seen or len(set(re.findall(r"^\[(\S+)\] set up$", seen, re.MULTILINE))) < 2:
        seen += next(followed)  # of both pods, also of one that comes later
    followed.close()
    selector = f"shardgate.io/transform={id}"
    found = [
        cluster.get(kind, namespace=gateway.namespace, selector=selector) for kind in ("deploy", "pods", "service")
    ]
    assert [len(some) for some in found] == [1, 2, 1]
    assert {"name": "GREETING", "value": "hello"} in found[1][0]["spec"]["containers"][0]["env"]
    assert "kube-api-access" not in json.dumps(found[1][0]), "no service account's token"
    client.transforms.stop(id)
    assert client.transforms.show(id)["state"] == "stopped"
    with pytest.raises(shardgate.Conflict, match="was stopped"):
        client.get("gcp://shards", "a.tar", transform_id=id)
    client.transforms.start(id)
    assert client.get("gcp://shards", "a.tar", transform_id=id) == whole
    client.transforms.delete(id)
    wait_until(lambda: not pods(cluster, gateway, "talkative"), GENEROUS_SECONDS, "no pods")
    for kind in ("deploy", "service", "secret"):
        assert not cluster.get(kind, namespace=gateway.namespace, selector=selector)


def test_a_function_that_closes_over_50_mb_gets_to_its_pod_by_http_and_nothing_of_it_stands_in_the_pods_spec(
    cluster: Cluster, gateway: HostGateway
) -> None:
    began = time.monotonic()
    with pytest.warns(CaptureWarning, match="EMBEDDINGS"):
        id = gateway.register(with_much_in_it)  # noqa: A001
    print(f"ready after {time.monotonic() - began:.1f} s")
    body = gateway.client.get("gcp://shards", "a.tar", transform_id=id)
    assert body.count(hashlib.sha256(EMBEDDINGS).hexdigest().encode()) == 100
    assert len(json.dumps(pods(cluster, gateway, "with-much-in-it")[0]["spec"])) < 10_000
    gateway.client.transforms.delete(id)


class OtherGateways:
    """More gateways of the same installation, in this process, as far as running transforms goes."""

    def __init__(self, gateway: HostGateway, folder: Path) -> None:
        flags: dict[str, dict[str, Any]] = {}
        for name, value in gateway.settings.items():
            group, _, field = name.partition(".")
            flags.setdefault(group, {})[field] = value
        flags["kubernetes"]["images"] = json.loads(flags["kubernetes"]["images"])
        self._settings = load(None, flags)
        self._environments = Environments(open_store("file://e", BucketSettings(where=str(folder)), UpstreamSettings()))
        self._gateway = gateway

    def settings(self, **kubernetes: Any) -> Settings:
        return self._settings.model_copy(update={"kubernetes": self._settings.kubernetes.model_copy(update=kubernetes)})

    def tokens(self) -> Tokens:
        return Tokens(self._settings.auth, self._settings.serve.token)

    async def records(self) -> list[TransformRecord]:
        found = await asyncio.to_thread(self._gateway.client.transforms.list)
        return [
            TransformRecord(
                record["id"],
                record["name"],
                record["digest"],
                wire.Manifest.from_map(record["manifest"]),
                TransformOptions.parse(record["options"]),
                record["package_bytes"],
                datetime.fromisoformat(record["created_at"]),
                record["created_by"],
            )
            for record in found
        ]

    async def record(self, id: str) -> TransformRecord:  # noqa: A002
        return next(record for record in await self.records() if record.id == id)

    @asynccontextmanager
    async def runner(self) -> AsyncIterator[KubernetesRunner]:
        async def demands() -> tuple[Demands, bool]:
            return {}, False

        async with open_runner(self.settings(), self.tokens(), self._environments, self.records, demands) as runner:
            yield runner

    @asynccontextmanager
    async def reconciler(
        self, records: Callable[[], Awaitable[list[TransformRecord]]], **kubernetes: Any
    ) -> AsyncIterator[Reconciler]:
        settings = self.settings(**kubernetes)
        async with (
            open_api(settings.kubernetes.kubeconfig, settings.kubernetes.namespace) as api,
            open_view(api, settings.kubernetes.instance) as view,
        ):
            await view.wait_until_synced()
            policy, tokens = Policy(settings.kubernetes), self.tokens()
            objects = Objects(api, settings, policy, tokens)
            url = settings.serve.public_url
            builder = EnvironmentBuilder(api, settings.kubernetes, tokens, self._environments, url, objects.owner)
            yield Reconciler(view, objects, policy, builder, records, settings.kubernetes.token_seconds)


@pytest.fixture
def others(gateway: HostGateway, tmp_path: Path) -> OtherGateways:
    return OtherGateways(gateway, tmp_path)


async def test_ten_gateways_that_start_one_transform_at_once_make_one_deployment(
    cluster: Cluster, gateway: HostGateway, others: OtherGateways
) -> None:
    id = await asyncio.to_thread(lambda: gateway.register(wanted_by_ten, start=False))  # noqa: A001
    record = await others.record(id)
    async with AsyncExitStack() as stack:
        runners = [await stack.enter_async_context(others.runner()) for _ in range(10)]
        began = time.monotonic()
        await asyncio.gather(*(runner.ensure(record) for runner in runners))
        print(f"ready for ten gateways after {time.monotonic() - began:.1f} s")
        made = deployments(cluster, gateway, "wanted-by-ten")
        assert len(made) == 1
        assert made[0]["spec"]["replicas"] == 1
        selector = f"shardgate.io/transform={id}"
        assert len(cluster.get("replicasets", namespace=gateway.namespace, selector=selector)) == 1
        assert [(await runner.status(id)).state for runner in runners] == ["ready"] * 10

        await runners[0].stop(record)
        await asyncio.to_thread(
            wait_until, lambda: not pods(cluster, gateway, "wanted-by-ten"), GENEROUS_SECONDS, "no pods"
        )
        for runner in runners:
            with pytest.raises(Conflict, match="was stopped"):
                await runner.ensure(record)
            assert (await runner.status(id)).state == "stopped"
        await asyncio.gather(*(runner.start(record) for runner in runners[:3]))
        assert (await runners[9].status(id)).state == "ready"
    await asyncio.to_thread(gateway.client.transforms.delete, id)


async def test_what_nobody_has_registered_any_more_is_removed(
    cluster: Cluster, gateway: HostGateway, others: OtherGateways
) -> None:
    kept, lost = [
        await asyncio.to_thread(lambda function=function: gateway.register(function))
        for function in (kept_one, lost_one)
    ]

    async def without_the_lost() -> list[TransformRecord]:
        return [record for record in await others.records() if record.id != lost]

    def token() -> str:
        (secret,) = cluster.get("secrets", namespace=gateway.namespace, selector="shardgate.io/name=kept-one")
        return base64.b64decode(secret["data"]["token"]).decode()

    before = token()
    async with others.reconciler(without_the_lost) as reconciler:
        await asyncio.sleep(1)  # a token's times are whole seconds
        await reconciler.tend()
        renewed = jwt.decode(token(), options={"verify_signature": False})
        assert renewed["exp"] > jwt.decode(before, options={"verify_signature": False})["exp"]
        assert deployments(cluster, gateway, "lost-one"), "too young: it may be about to be registered"
        await reconciler.tend(young_seconds=0)
    assert not deployments(cluster, gateway, "lost-one")
    assert deployments(cluster, gateway, "kept-one")
    assert not cluster.get("secrets", namespace=gateway.namespace, selector="shardgate.io/name=lost-one")
    for id in (kept, lost):  # noqa: A001
        await asyncio.to_thread(gateway.client.transforms.delete, id)


async def test_an_upgrade_of_the_runtime_and_back_rolls_without_a_failed_read(
    cluster: Cluster, gateway: HostGateway, others: OtherGateways
) -> None:
    """A gateway with another idea of how pods are to be writes the Deployment anew, and the first one does so again."""
    id = await asyncio.to_thread(lambda: gateway.register(unhurried, min_replicas=1))  # noqa: A001
    whole = await asyncio.to_thread(gateway.client.get, "gcp://shards", "a.tar", transform_id=id)

    def spec() -> str:
        return str(deployments(cluster, gateway, "unhurried")[0]["metadata"]["annotations"][names.ANNOTATION_SPEC])

    def generation() -> int:
        return int(deployments(cluster, gateway, "unhurried")[0]["metadata"]["generation"])

    def rolled() -> bool:
        ready = [pod for pod in pods(cluster, gateway, "unhurried") if "deletionTimestamp" not in pod["metadata"]]
        return {pod["metadata"]["annotations"][names.ANNOTATION_SPEC] for pod in ready} == {before} == {spec()}

    before, written = spec(), generation()
    url = gateway.object_url("a.tar", transform_id=id)
    with Readers(url, hashlib.sha256(whole).hexdigest(), 4) as readers:
        async with others.reconciler(others.records, grace_seconds=50) as upgraded:
            await upgraded.tend()
        assert generation() > written  # what is written there may be that of the first one again already
        await asyncio.to_thread(wait_until, rolled, GENEROUS_SECONDS, "both rolls")
        done = readers.bodies
        await asyncio.to_thread(wait_until, lambda: readers.bodies > done + 4, GENEROUS_SECONDS, "more bodies")
    print(f"{readers.bodies} bodies, longest pause {readers.pause:.2f} s, longest wait {readers.wait:.2f} s")
    assert not readers.problems
    await asyncio.to_thread(gateway.client.transforms.delete, id)
