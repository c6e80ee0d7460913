"""Machines that are only pretended: kwok plays the kubelet of nodes that are not there, for tests of scale.

    with pretended_nodes(cluster, tmp_path) as nodes:
        async with open_api(str(cluster.kubeconfig), namespace) as api:
            await create_all(api, (nodes.pod(f"pod-{i}", labels) for i in range(10_000)))

To everybody else such a pod is as real as any: it gets an address and becomes Ready as soon as it is there, controllers
list it in EndpointSlices, and a deleted one goes. Nothing runs in it, and nobody answers at its address.

Pods are bound to their nodes when they are created, for a scheduler and the ReplicaSet controller with their limits
(20 requests per second) would take ten minutes for what a test of the gateway only needs to be there. A taint keeps
everybody else's pods away. kwok renews the nodes' Leases, so the control plane takes them for healthy; where a busy
machine makes it miss one, it makes the pods Ready again that the control plane gave up. Those whose Ready condition has
the reason `Tested` stay as they are.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster import ready, wait_until
from servers import Server, running
from shardgate_gateway.errors import KubernetesError, KubernetesUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cluster import Cluster
    from shardgate_gateway.kube.client import KubeApi

LABEL = {"kwok.x-k8s.io/node": "fake"}
SELECTOR = "kwok.x-k8s.io/node=fake"
NODES = 20
ADDRESSES = "198.18.0.1/15"
"""Reserved for benchmarks (RFC 2544): no machine has one."""
LEASE_SECONDS = 10
"""Renewed four times as often; our cluster gives a silent node up after as long."""
AT_ONCE = 32
TRIES = 20
CONFLICT = 409
START_SECONDS = 60
CLEAR_SECONDS = 300

STAGES = """
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options: {podPlayStageParallelism: 16, nodePlayStageParallelism: 4}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: '.status.conditions.[] | select(.type == "Ready") | .status', operator: NotIn, values: ["True"]}
  next:
    statusTemplate: |
      phase: Running
      conditions:
      - {type: Ready, status: "True", reason: Pretended, message: "", lastHeartbeatTime: {{ Now | Quote }},
         lastTransitionTime: {{ Now | Quote }}}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: '.status.conditions.[] | select(.type == "Ready") | .status', operator: NotIn, values: ["True"]}
    - {key: '.status.conditions.[] | select(.type == "Ready") | .reason', operator: NotIn, values: [Tested]}
  next:
    statusTemplate: |
      {{ $now := Now | Quote }}
      {{ $new := PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace }}
      {{ $ip := or .status.podIP $new | Quote }}
      phase: Running
      startTime: {{ $now }}
      podIP: {{ $ip }}
      podIPs: [{ip: {{ $ip }}}]
      conditions:
      {{ range $type := list "PodScheduled" "PodReadyToStartContainers" "Initialized" "ContainersReady" "Ready" }}
      - {type: {{ $type }}, status: "True", lastProbeTime: null, lastTransitionTime: {{ $now }}}
      {{ end }}
      containerStatuses:
      {{ range .spec.containers }}
      - {name: {{ .name }}, image: {{ .image | Quote }}, imageID: "", ready: true, started: true, restartCount: 0,
         state: {running: {startedAt: {{ $now }}}}, lastState: {}}
      {{ end }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-gone}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: Exists}
  next: {delete: true}
"""


class PretendedNodes:
    """Nodes that are up."""

    def __init__(self, names: list[str]) -> None:
        self._next = itertools.cycle(names)

    def bind(self, name: str, template: dict[str, Any]) -> dict[str, Any]:
        """A pod from a template as Deployments have it, on the next of the nodes."""
        metadata, spec = template["metadata"], template["spec"]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "name": name},
            "spec": {**spec, "nodeName": next(self._next)},
        }


@contextmanager
def pretended_nodes(cluster: Cluster, folder: Path) -> Iterator[PretendedNodes]:
    """Ready nodes for as long as the block lasts. Pods on them are to be deleted before: see `clear`."""
    stages = folder / "stages.yaml"
    stages.write_text(STAGES)
    names = [f"pretended-{index}" for index in range(NODES)]

    def arguments(port: int) -> list[str]:
        flags = {
            "config": stages,
            "kubeconfig": cluster.kubeconfig,
            "manage-nodes-with-label-selector": SELECTOR,
            "cidr": ADDRESSES,
            "node-lease-duration-seconds": LEASE_SECONDS,
            "server-address": f"127.0.0.1:{port}",
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    _delete_nodes(cluster)  # of a test that was killed
    with running(Server, "kwok", folder / "kwok", arguments):
        try:
            cluster.apply(*map(_node, names))
            wait_until(lambda: _ready(cluster) == NODES, START_SECONDS, "the pretended nodes to be Ready")
            yield PretendedNodes(names)
        finally:
            _delete_nodes(cluster)


async def create_all(api: KubeApi, objects: Iterable[dict[str, Any]]) -> None:
    """Create many objects, some at a time, whether or not the API server is busy."""
    left = iter(objects)

    async def work() -> None:
        for obj in left:
            await _create(api, obj)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())


def clear(cluster: Cluster, namespace: str) -> float:
    """Delete a namespace with thousands of pods, and return when nothing is left to do for anybody; the seconds.

    What has the control plane follow the pods goes before them, and nobody waits for pods in which nothing runs.
    """
    began = time.monotonic()
    for root, resource in (("api/v1", "services"), ("apis/apps/v1", "deployments"), ("api/v1", "pods")):
        path = f"/{root}/namespaces/{namespace}/{resource}?gracePeriodSeconds=0"
        wait_until(partial(_deleted, cluster, path), CLEAR_SECONDS, f"{path} to be gone")
    cluster.kubectl("delete", "namespace", namespace, seconds=CLEAR_SECONDS)
    return time.monotonic() - began


async def _create(api: KubeApi, obj: dict[str, Any]) -> None:
    for _ in range(TRIES):
        try:
            await api.create(obj)
        except KubernetesUnavailable:
            await asyncio.sleep(1)
        except KubernetesError as error:
            if error.status != CONFLICT:  # an answer that was lost
                raise
            return
        else:
            return
    raise AssertionError(f"the API server did not take {obj['metadata']['name']} in {TRIES} tries")


def _node(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**LABEL, "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "10k", "memory": "10Ti", "pods": "100k"}},
    }


def _ready(cluster: Cluster) -> int:
    return sum(ready(node) for node in cluster.get("nodes", selector=SELECTOR))


def _deleted(cluster: Cluster, path: str) -> bool:
    """Whether all of a collection went within the minute that the API server gives one request."""
    return cluster.kubectl("delete", f"--raw={path}", check=False).startswith("{")


def _delete_nodes(cluster: Cluster) -> None:
    cluster.kubectl("delete", "nodes", "--selector", SELECTOR)
