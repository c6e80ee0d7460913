"""Several gateways that find each other by the real API server's EndpointSlices."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from chart_release import BUCKET, RELEASE, ClientReaders, Release, installed
from gateway_process import GatewayProcess
from readers import curl

from cluster import Cluster, wait_until
from shardgate import wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

TOKEN = "a-token-for-tests"
AUTHORIZED = ["-H", f"Authorization: Bearer {TOKEN}"]
SERVICE = "gateways"
SEEN_SECONDS = 30
READERS = 8
SIZE = 20_000_000


def slice_of(name: str, address: str, port: int, *, ready: bool = True) -> dict[str, Any]:
    """What the control plane writes for a pod of a headless Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{SERVICE}-{name}", "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": name}}
        ],
    }


@pytest.fixture
def gateways(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[dict[str, GatewayProcess]]:
    """Two on this machine."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "data").write_bytes(b"data")
    settings = {
        "serve.host": "0.0.0.0",  # pods' networks reach this machine by an address of its own
        "serve.token": TOKEN,
        "auth.signing_key": "k" * 32,
        "cluster.membership": "kubernetes",
        "cluster.service": SERVICE,
        "kubernetes.kubeconfig": str(cluster.kubeconfig),
        "kubernetes.namespace": namespace,
    }
    with ExitStack() as stack:
        found = {}
        for name in "ab":
            own = {**settings, "cluster.name": name}
            found[name] = GatewayProcess(tmp_path / name, {"file://f": files}, settings=own)
            stack.callback(found[name].close)
            found[name].launch()
        for gateway in found.values():
            gateway.wait()
        yield found


def members(gateway: GatewayProcess) -> list[str]:
    said = json.loads(curl(f"{gateway.endpoint}/v1/cluster", *AUTHORIZED).body)
    return [member["name"] for member in said["members"] if member["live"]]


def test_gateways_follow_who_is_ready(cluster: Cluster, namespace: str, gateways: dict[str, GatewayProcess]) -> None:
    a, b = gateways["a"], gateways["b"]
    assert (members(a), members(b)) == (["a"], ["b"]), "each is alone as long as nobody is ready"

    slices = [slice_of(name, cluster.host, gateway.port) for name, gateway in gateways.items()]
    cluster.apply(*slices, namespace=namespace)
    wait_until(lambda: members(a) == members(b) == ["a", "b"], SEEN_SECONDS, "both to see each other")
    answers = [curl(gateway.url("file://f", "data"), *AUTHORIZED) for gateway in (a, b)]
    assert [answer.body for answer in answers] == [b"data"] * 2
    assert sum(wire.MEMBER_HEADER.lower() in answer.headers for answer in answers) == 1, "one owns it, the other asks"

    cluster.apply(slice_of("b", cluster.host, b.port, ready=False), namespace=namespace)
    wait_until(lambda: members(a) == ["a"], SEEN_SECONDS, "a gateway that is not ready to be left out")
    assert wire.MEMBER_HEADER.lower() not in curl(a.url("file://f", "data"), *AUTHORIZED).headers

    cluster.kubectl("delete", "endpointslice", f"{SERVICE}-a", namespace=namespace)
    cluster.apply(slices[1], namespace=namespace)
    wait_until(lambda: members(a) == ["a", "b"], SEEN_SECONDS, "the ready one, and the one that asks itself")


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    with installed(cluster) as release:
        yield release


def test_two_gateways_fetch_a_cold_object_once(release: Release) -> None:
    data = hashlib.shake_128(b"cold").digest(SIZE)
    client = release.client
    client.put(BUCKET, "cold.bin", data)
    before = reads(release, "miss")
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(client.get(BUCKET, "cold.bin") == data)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == [True] * len(threads)
    assert reads(release, "miss") - before == 1
    assert re.search(r'^shardgate_forwarded_total\{how="(proxy|redirect)"\} [1-9]', release.metrics(), re.MULTILINE)


def reads(release: Release, cache: str) -> float:
    """Summed over the gateways."""
    pattern = rf'^shardgate_reads_total\{{bucket="[^"]*",cache="{cache}"\}} (\S+)'
    return sum(map(float, re.findall(pattern, release.metrics(), re.MULTILINE)))


def test_eight_readers_read_on_while_gateway_pods_are_deleted(release: Release) -> None:
    data = hashlib.shake_128(b"warm").digest(SIZE)
    client = release.client
    client.put(BUCKET, "warm.bin", data)
    with ClientReaders(client, [({"object_name": "warm.bin"}, hashlib.sha256(data).hexdigest())] * READERS) as readers:
        for how in ([], ["--grace-period=0", "--force"]):
            done = readers.bodies
            wait_until(lambda done=done: readers.bodies > done + READERS, 120, "readers to read")
            for index in range(2):
                before = {pod["metadata"]["uid"] for pod in release.gateways()}
                release.kubectl("delete", "pod", f"{RELEASE}-{index}", "--wait=false", *how)
                wait_until(lambda before=before: replaced(release, before), 240, "another pod in its place")
        done = readers.bodies
        wait_until(lambda: readers.bodies > done + READERS, 120, "readers to go on")
    print(f"\ngateway pods deleted: {readers.bodies} bodies, longest pause {readers.pause:.1f} s")
    assert not readers.problems


def replaced(release: Release, before: set[str]) -> bool:
    """Whether two gateways are ready, and one of them is new."""
    ready = [
        pod["metadata"]["uid"]
        for pod in release.gateways()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]
    return len(ready) == 2 and set(ready) != before
