"""Every way in which a transform's pods can fail to start, by doing it, and the words that its owner reads.

One gateway on this machine, one namespace. A start that can't succeed must fail by itself, say why, and leave nothing
that crashes in a loop; the state must tell the same words to whoever asks later. Times are printed, not judged.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from gateway_on_host import HostGateway, gateway_on_host

from cluster import wait_until
from shardgate import TransformFailed, WDTransform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

PATIENCE_SECONDS = 6
GENEROUS_SECONDS = 90
"""For the words to arrive on a machine that does ten things at a time."""


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, runtime_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostGateway]:
    settings = {
        "kubernetes.patience_seconds": PATIENCE_SECONDS,
        "kubernetes.allowed_images": '["nowhere/*"]',
        "kubernetes.allowed_secrets": '["team-*"]',
    }
    with (
        cluster.namespace("failures") as namespace,
        gateway_on_host(
            cluster, namespace, runtime_image, tmp_path_factory.mktemp("failures"), settings=settings
        ) as gateway,
    ):
        gateway.put_shard("a.tar", samples=3, size=100)
        yield gateway


def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def explode() -> None:
    raise RuntimeError("this module needs a licence")


class ExplodesWhenLoaded:
    """Stands for a module that raises when it is imported."""

    def __reduce__(self) -> Any:
        return explode, ()


class NeedsWeights:
    def setup(self) -> None:
        raise FileNotFoundError("weights.bin is not there")

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample


def with_module(sample: dict[str, Any], module: Any = ExplodesWhenLoaded()) -> dict[str, Any]:  # noqa: B008
    return sample


@contextmanager
def applied(cluster: Cluster, namespace: str, obj: dict[str, Any]) -> Iterator[None]:
    cluster.apply(obj, namespace=namespace)
    try:
        yield
    finally:
        cluster.kubectl("delete", obj["kind"], obj["metadata"]["name"], namespace=namespace)


def quota() -> dict[str, Any]:
    spec = {"hard": {"limits.memory": "100Mi"}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": spec}


def limit_range() -> dict[str, Any]:
    spec = {"limits": [{"type": "Container", "max": {"memory": "128Mi"}}]}
    return {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tight"}, "spec": spec}


def fails(gateway: HostGateway, name: str, function: Callable[..., Any] = unchanged, **options: Any) -> str:
    """Start a transform that can't be; what its owner reads, after checking that everybody else reads it, too."""
    began = time.monotonic()
    with pytest.raises(TransformFailed) as failed:
        WDTransform(gateway.client, function, name, "", cache="never", **options)
    print(f"{name}: failed after {time.monotonic() - began:.1f} s: {failed.value}")
    record = gateway.client.transforms.show(name)
    assert record["state"] == "failed", record
    assert record["message"] in str(failed.value)
    assert record["hint"] == failed.value.hint
    return str(failed.value)


@pytest.fixture
def nothing_stays(cluster: Cluster, gateway: HostGateway) -> Iterator[None]:
    """What failed to start does not try for ever."""
    yield
    pods = "app.kubernetes.io/component=etl"
    wait_until(lambda: not cluster.get("pods", namespace=gateway.namespace, selector=pods), GENEROUS_SECONDS, "no pods")


@pytest.mark.usefixtures("nothing_stays")
def test_an_image_that_is_not_there(gateway: HostGateway) -> None:
    words = fails(gateway, "no-image", image="nowhere/no-such-image:1")
    assert re.search(r"its image \S*nowhere/no-such-image:1 can't be pulled: .*not found", words)
    assert "is the name right" in words
    assert gateway.client.transforms.logs("no-image").startswith("its image")


def test_a_requirement_that_does_not_exist(gateway: HostGateway) -> None:
    words = fails(gateway, "no-requirement", requirements=["shardgate-has-no-such-distribution==1.0"])
    assert "installing shardgate-has-no-such-distribution==1.0 failed" in words


@pytest.mark.usefixtures("nothing_stays")
def test_a_function_that_raises_when_it_is_imported(gateway: HostGateway) -> None:
    words = fails(gateway, "raises", with_module)
    assert "RuntimeError: this module needs a licence" in words


@pytest.mark.usefixtures("nothing_stays")
def test_a_class_whose_setup_fails(gateway: HostGateway) -> None:
    words = fails(gateway, "no-weights", NeedsWeights)
    assert "weights.bin is not there" in words


@pytest.mark.usefixtures("nothing_stays")
def test_a_memory_limit_that_is_too_small(gateway: HostGateway) -> None:
    words = fails(gateway, "small", resources={"memory": "20Mi"})
    assert "its memory limit of 20Mi is too small" in words
    assert 'resources={"memory": "4Gi"}' in words


@pytest.mark.usefixtures("nothing_stays")
def test_no_node_that_fits_is_told_at_once_and_fails_when_patience_is_over(
    gateway: HostGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[float] = []
    began = time.monotonic()

    def look() -> None:
        wait_until(lambda: "no node fits" in state_of(gateway, "huge"), GENEROUS_SECONDS, "words about nodes")
        seen.append(time.monotonic() - began)

    looking = threading.Thread(target=look)
    looking.start()
    words = fails(gateway, "huge", node_selector={"disk": "made-of-gold"}, verbose=True)
    looking.join()
    assert re.search(r"no node fits: 0/\d+ nodes are available: .*node affinity/selector", words)
    assert time.monotonic() - began >= PATIENCE_SECONDS
    printed = capsys.readouterr().out
    assert printed.startswith("Initializing ETL...\n")
    assert "pending: no node fits: 0/" in printed
    assert "hint: ask for less" in printed
    print(f"words about nodes after {seen[0]:.1f} s")


@pytest.mark.usefixtures("nothing_stays")
def test_a_secret_that_is_not_there(gateway: HostGateway) -> None:
    words = fails(gateway, "no-secret", secrets=["team-key"])
    assert "its container can't be created" in words
    assert '"team-key" not found' in words


@pytest.mark.usefixtures("nothing_stays")
def test_a_quota_that_is_used_up_and_raised_again(cluster: Cluster, gateway: HostGateway) -> None:
    with applied(cluster, gateway.namespace, quota()):
        words = fails(gateway, "much", env={"PURPOSE": "quota"})
    assert "the namespace's quota is used up: tight, requested: limits.memory=512Mi" in words
    assert "have the operator raise the ResourceQuota" in words
    gateway.client.transforms.start("much")
    assert gateway.client.transforms.show("much")["state"] == "ready"
    gateway.client.transforms.delete("much")


@pytest.mark.usefixtures("nothing_stays")
def test_a_pod_that_is_not_admitted(cluster: Cluster, gateway: HostGateway) -> None:
    with applied(cluster, gateway.namespace, limit_range()):
        words = fails(gateway, "refused")
    assert "the cluster does not admit its pod: maximum memory usage per Container is 128Mi" in words


@pytest.mark.usefixtures("nothing_stays")
def test_a_deployment_that_is_not_admitted(cluster: Cluster, gateway: HostGateway) -> None:
    none_left = {**quota(), "spec": {"hard": {"count/deployments.apps": "0"}}}

    def is_counted() -> bool:
        (found,) = cluster.get("resourcequotas", namespace=gateway.namespace)
        return "hard" in found["status"]

    with applied(cluster, gateway.namespace, none_left):
        wait_until(is_counted, GENEROUS_SECONDS, "the quota")
        words = fails(gateway, "one-too-many")
    assert "the cluster refuses it" in words
    assert "exceeded quota: tight, requested: count/deployments.apps=1" in words


def state_of(gateway: HostGateway, name: str) -> str:
    known = [record for record in gateway.client.transforms.list() if record["name"] == name]
    return str(known[0]["message"]) if known else ""
