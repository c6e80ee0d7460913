"""Eight readers stream while what runs their transform is taken away: no byte changes, and the pauses are short.

The gateway runs on this machine, so that only pods are lost. Every reader gets its shard in one GET after the other; a
body that breaks off, or that differs, is a problem. Each pod has enough workers for all readers, so a pause is the time
that it takes to notice and to go on, not the time for a place.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from gateway_on_host import COMPONENT, TOKEN, HostGateway, Readers, gateway_on_host

from cluster import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

READERS = 8
SAMPLES = 250
SIZE = 20_000
SETTLE_SECONDS = 2.0


def slowly_reversed(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.02)
    sample["bin"] = sample["bin"][::-1]
    return sample


class Lab:
    """A gateway with one transform in two pods, and what they make of the shard when nobody disturbs them."""

    def __init__(self, cluster: Cluster, namespace: str, gateway: HostGateway) -> None:
        self.cluster = cluster
        self.namespace = namespace
        gateway.put_shard("a.tar", samples=SAMPLES, size=SIZE)
        id = gateway.register(slowly_reversed, workers=READERS, replicas=2)  # noqa: A001
        self.url = gateway.object_url("a.tar", transform_id=id)
        self.until_ready()
        answer = urllib3.request("GET", self.url, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status == 200
        self.digest = hashlib.sha256(answer.data).hexdigest()

    def pods(self) -> list[dict[str, Any]]:
        """Those that are ready and not about to end."""
        pods = self.cluster.get("pods", namespace=self.namespace, selector=COMPONENT)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _is_ready(pod)]

    def until_ready(self, count: int = 2) -> float:
        return wait_until(lambda: len(self.pods()) >= count, 120, f"{count} pods to be ready")

    def spread(self) -> set[str]:
        """Have its pods on two nodes, and say which. The scheduler prefers that, and does not promise it."""

        def nodes() -> set[str]:
            return {pod["spec"]["nodeName"] for pod in self.pods()}

        self.until_ready()
        if len(nodes()) < 2:
            name = self.pods()[0]["metadata"]["name"]
            self.cluster.kubectl("delete", "pod", name, "--wait=false", namespace=self.namespace)
        wait_until(lambda: len(nodes()) == 2, 120, "its pods on two nodes")
        return nodes()

    def readers(self) -> Readers:
        return Readers(self.url, self.digest, READERS)


@pytest.fixture(scope="module")
def lab(cluster: Cluster, runtime_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("pods-lost")
    with (
        cluster.namespace("pods-lost") as namespace,
        gateway_on_host(cluster, namespace, runtime_image, folder) as gateway,
    ):
        yield Lab(cluster, namespace, gateway)


def test_readers_notice_nothing_but_a_pause_when_a_pod_is_deleted_killed_or_replaced(lab: Lab) -> None:
    with lab.readers() as readers:
        _settle(readers)
        for how in (["--wait=false"], ["--force", "--grace-period=0", "--wait=false"]):
            readers.forget()
            victim = lab.pods()[0]["metadata"]["name"]
            lab.cluster.kubectl("delete", "pod", victim, *how, namespace=lab.namespace)
            time.sleep(SETTLE_SECONDS)
            lab.until_ready()
            print(f"pod deleted {' '.join(how)}: longest pause {readers.pause:.2f} s, wait {readers.wait:.2f} s")
            assert readers.pause < 5
        readers.forget()
        lab.cluster.kubectl("rollout", "restart", "deployment", "--selector", COMPONENT, namespace=lab.namespace)
        lab.cluster.kubectl(
            "rollout", "status", "deployment", "--selector", COMPONENT, "--timeout=180s", namespace=lab.namespace
        )
        time.sleep(SETTLE_SECONDS)
        print(f"runtime rolled: longest pause {readers.pause:.2f} s, wait {readers.wait:.2f} s")
    assert readers.problems == []
    assert readers.bodies >= READERS


def test_readers_do_not_notice_that_the_api_server_is_away(lab: Lab) -> None:
    lab.until_ready()
    with lab.readers() as readers:
        _settle(readers)
        with lab.cluster.program_stopped("kube-apiserver"):
            before = readers.bodies
            time.sleep(30)
            assert readers.bodies >= before + READERS, "reads begin and end without it"
        print(f"API server away for 30 s: longest pause {readers.pause:.2f} s, wait {readers.wait:.2f} s")
    assert readers.problems == []


def test_readers_go_on_elsewhere_when_a_node_dies(lab: Lab) -> None:
    nodes = lab.spread()
    with lab.readers() as readers:
        _settle(readers)
        with lab.cluster.node_dead(max(nodes)):
            time.sleep(15)
            print(f"node lost: longest pause {readers.pause:.2f} s, wait {readers.wait:.2f} s")
            assert readers.pause < 15
        time.sleep(SETTLE_SECONDS)
    assert readers.problems == []
    assert readers.bodies >= READERS


def _settle(readers: Readers) -> None:
    """Let every reader be in the middle of a body."""
    wait_until(lambda: readers.wait > 0, 60, "the first byte")
    time.sleep(SETTLE_SECONDS)
    readers.forget()


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
