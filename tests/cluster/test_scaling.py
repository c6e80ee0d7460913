"""Pods follow what readers want: up, down, to nothing, and up again for the next reader; and the queue is bounded."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from gateway_on_host import TOKEN, HostGateway, gateway_on_host

from cluster import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
WAITING = 10
ELASTIC = "shardgate.io/name=elastic"
CALM_SECONDS = 4
IDLE_SECONDS = 10


def unhurried(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.05)
    return sample


def unrushed(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.05)
    return sample


def elastic(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.05)
    return sample


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, runtime_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostGateway]:
    settings = {
        "etl.max_waiting": WAITING,
        "etl.idle_seconds": IDLE_SECONDS,
        "kubernetes.calm_seconds": CALM_SECONDS,
    }
    with (
        cluster.namespace("scaling") as namespace,
        gateway_on_host(
            cluster, namespace, runtime_image, tmp_path_factory.mktemp("scaling"), settings=settings
        ) as gateway,
    ):
        gateway.put_shard("a.tar", samples=40, size=10_000)
        yield gateway


def read(url: str) -> tuple[int, str, float]:
    """Status, digest or Retry-After, and seconds to the first byte."""
    asked = time.monotonic()
    response = urllib3.request("GET", url, headers=HEADERS, preload_content=False, retries=False, timeout=120)
    with response:
        if response.status != 200:
            return response.status, response.headers.get("Retry-After", ""), 0.0
        first = response.read(1)
        seconds = time.monotonic() - asked
        return 200, hashlib.sha256(first + response.read()).hexdigest(), seconds


def at_once(url: str, count: int) -> list[tuple[int, str, float]]:
    answers: list[tuple[int, str, float]] = []
    threads = [threading.Thread(target=lambda: answers.append(read(url))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    return answers


def deployment(cluster: Cluster, gateway: HostGateway) -> dict[str, Any]:
    (found,) = cluster.get("deployments", namespace=gateway.namespace, selector=ELASTIC)
    return found


def replicas(cluster: Cluster, gateway: HostGateway) -> int:
    return int(deployment(cluster, gateway)["spec"]["replicas"])


def test_many_readers_share_few_workers_and_only_those_beyond_the_bound_are_sent_away(gateway: HostGateway) -> None:
    transform = gateway.register(unhurried, workers=2, replicas=1)
    url = gateway.object_url("a.tar", transform_id=transform)
    alone = read(url)
    assert alone[0] == 200
    answers = at_once(url, WAITING)
    assert Counter((status, digest) for status, digest, _ in answers) == {alone[:2]: WAITING}
    answers = at_once(url, 2 * WAITING)
    refused = [after for status, after, _ in answers if status == 503]
    assert all(int(after) >= 1 for after in refused)
    assert 1 <= len(refused) <= WAITING, "two are at work, ten wait"
    assert [digest for status, digest, _ in answers if status != 503] == [alone[1]] * (2 * WAITING - len(refused))


def test_no_more_than_the_bound_wait_for_the_first_pod_either(gateway: HostGateway) -> None:
    transform = gateway.register(unrushed, workers=2, replicas=1, start=False)
    url = gateway.object_url("a.tar", transform_id=transform)
    answers = at_once(url, 2 * WAITING)
    assert Counter(status for status, _, _ in answers) == {200: WAITING, 503: WAITING}
    assert len({digest for status, digest, _ in answers if status == 200}) == 1


def test_pods_follow_readers_up_and_down_to_nothing_and_come_back(cluster: Cluster, gateway: HostGateway) -> None:
    transform = gateway.register(elastic, workers=1, max_replicas=3)
    url = gateway.object_url("a.tar", transform_id=transform)
    body = read(url)[1]
    stop = threading.Event()
    problems: list[object] = []

    def read_on() -> None:
        while not stop.is_set():
            if (answer := read(url))[:2] != (200, body):
                problems.append(answer)

    readers = [threading.Thread(target=read_on) for _ in range(3)]
    for reader in readers:
        reader.start()
    up = wait_until(lambda: replicas(cluster, gateway) == 3, 60, "a pod for each reader")
    stop.set()
    for reader in readers:
        reader.join(120)
    assert problems == []
    down = wait_until(lambda: replicas(cluster, gateway) == 1, 60, "fewer pods")
    nothing = wait_until(lambda: replicas(cluster, gateway) == 0, 60, "no pod at all")
    print(f"three pods after {up:.1f} s, one {down:.1f} s after the last read, none {nothing:.1f} s later")
    wait_until(lambda: gateway.client.transforms.show(transform)["state"] == "idle", 30, "it to be idle")
    wait_until(lambda: not cluster.get("pods", namespace=gateway.namespace, selector=ELASTIC), 90, "pods to end")
    changes = deployment(cluster, gateway)["metadata"]["generation"]
    status, digest, seconds = read(url)
    print(f"from no pod to the first byte: {seconds:.2f} s")
    assert (status, digest) == (200, body)
    changes = deployment(cluster, gateway)["metadata"]["generation"] - changes
    assert changes == 1, "it is woken, and nobody takes it for idle while it starts"
