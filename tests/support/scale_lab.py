"""A gateway with five hundred transforms and ten thousand pods, and what is measured of it.

Transforms are started through the gateway's API. Their Deployments were there before, paused, so that no ReplicaSet
makes pods at 20 a second; the pods are made here, from a template that the gateway wrote.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import aiohttp
from gateway_on_host import INSTANCE, TOKEN
from kwok import create_all
from prometheus_client.parser import text_string_to_metric_families

from shardgate.capture import capture
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.pod_problems import is_ready
from shardgate_gateway.etl.kubernetes.routing import ready_endpoints
from shardgate_gateway.kube.client import MERGE_PATCH
from shardgate_gateway.kube.kinds import DEPLOYMENT, POD, Object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway_on_host import HostGateway
    from kwok import PretendedNodes

    from shardgate_gateway.etl.kubernetes.view import ClusterView
    from shardgate_gateway.kube.client import KubeApi

TRANSFORMS = 500
REPLICAS = 20
PODS = TRANSFORMS * REPLICAS
ROUNDS = 5
LIMIT_SECONDS = 600
"""For what the control plane does, on two cores."""
KEPT = ("name", "image", "command", "ports", "resources", "securityContext")
"""Of containers."""
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PATIENT = aiohttp.ClientTimeout(total=LIMIT_SECONDS)

Calls = Counter[tuple[str, str]]
"""Requests to the API server by method and resource."""
Condition: TypeAlias = "Callable[[], bool | Awaitable[bool]]"


class Reaction(NamedTuple):
    """Seconds from a change of a pod until a watch had it, the routing had it, and the gateway said so."""

    seen: float
    routed: float
    told: float


class Clock:
    """Prints what took how long."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def lap(self, what: str) -> float:
        seconds = time.monotonic() - self._began
        print(f"{what} after {seconds:.1f} s")
        return seconds


class Lab:
    """A gateway process with many transforms, and a watch of what it watches, to tell its own time from others'."""

    def __init__(self, gateway: HostGateway, api: KubeApi, view: ClusterView, http: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.api = api
        self.view = view
        self.http = http
        self.ids: list[str] = []

    def register(self) -> None:
        options = {"cache": "never", "replicas": str(REPLICAS), "workers": "1"}
        for index in range(TRANSFORMS):
            _, package = capture(unchanged, name=f"transform-{index:03}", decoder="")
            self.ids.append(str(self.gateway.client.transforms.register(package, **options)["id"]))

    async def start(self, nodes: PretendedNodes) -> None:
        """All transforms at once. Returns when the gateway says that all their pods are ready.

        The pods come first, made from what the gateway writes for one of them: controllers that look at each pod for
        each Service take much longer for the same.
        """
        clock = Clock()
        first = self.ids[0]
        template = json.dumps(await self._written(first))
        pods = (
            nodes.bind(f"{names.object_name(INSTANCE, one)}-{number}", json.loads(template.replace(first, one)))
            for one in self.ids
            for number in range(REPLICAS)
        )
        await create_all(self.api, pods)
        clock.lap(f"{PODS} pods created")
        await until(lambda: sum(map(is_ready, self.view.pods.items.values())) == PODS, every=1)
        clock.lap("ready")
        await create_all(self.api, map(_paused, self.ids[1:]))  # now, for what nobody started are orphans
        async with asyncio.TaskGroup() as starts:
            for one in self.ids:
                starts.create_task(self._start(one))
        clock.lap(f"{TRANSFORMS} transforms started")
        await self.until_told()
        clock.lap("all told by the gateway")

    async def until_told(self) -> None:
        """Until the gateway says that all pods of all transforms are ready."""

        async def told() -> bool:
            return {(one["state"], one["workers"]) for one in await self.list()} == {("ready", REPLICAS)}

        await until(told, every=0.2)

    async def until_quiet(self) -> None:
        """Until the holder of the Lease has renewed all tokens, which it does once when it sees a Deployment first."""

        async def renewed() -> bool:
            return (await self.calls())["PATCH", "secrets"] >= 2 * TRANSFORMS

        await until(renewed, every=1)

    async def list(self) -> list[dict[str, Any]]:
        """All transforms as the gateway describes them."""
        said: list[dict[str, Any]] = []
        target = f"{self.gateway.endpoint}/v1/transforms"
        while target:
            async with self.http.get(target) as answer:
                said += await answer.json()
                target = str(answer.links["next"]["url"]) if "next" in answer.links else ""
        return said

    async def calls(self) -> Calls:
        async with self.http.get(f"{self.gateway.endpoint}/metrics") as answer:
            return calls_in(await answer.text())

    async def longest_answer(self, seconds: float) -> float:
        """To a request that needs nothing but the gateway's event loop, asked again and again."""
        end, longest = time.monotonic() + seconds, 0.0
        while (asked := time.monotonic()) < end:
            async with self.http.get(f"{self.gateway.endpoint}/healthz") as answer:
                assert answer.status == HTTPStatus.OK
            longest = max(longest, time.monotonic() - asked)
            await asyncio.sleep(0.02)
        return longest

    async def reactions(self, nodes: PretendedNodes) -> dict[str, Reaction]:
        """The longest time that it took to notice each of the changes of a pod."""
        transform = self.ids[TRANSFORMS // 2]
        template = await self._template(transform)
        worst: dict[str, Reaction] = {}
        for pod in sorted(self.view.pods.group(names.transform_label(transform)))[:ROUNDS]:
            changes: dict[str, tuple[Callable[[], Awaitable[object]], int]] = {
                "not ready": (partial(self._set_ready, pod, "False"), REPLICAS - 1),
                "ready again": (partial(self._set_ready, pod, "True"), REPLICAS),
                "deleted": (partial(self.api.delete, POD, pod), REPLICAS - 1),
                "replaced": (partial(self.api.create, nodes.bind(f"{pod}-new", template)), REPLICAS),
            }
            for what, (change, count) in changes.items():
                asked = time.monotonic()
                await change()
                noticed = await self._noticed(transform, count, asked)
                worst[what] = Reaction(*map(max, noticed, worst.get(what, noticed)))
        return worst

    async def _noticed(self, transform: str, count: int, asked: float) -> Reaction:
        label = names.transform_label(transform)

        async def after(condition: Condition) -> float:
            await until(condition)
            return time.monotonic() - asked

        async def told() -> bool:
            return await self._workers(transform) == count

        return Reaction(
            *await asyncio.gather(
                after(lambda: sum(map(is_ready, self.view.pods.group(label).values())) == count),
                after(lambda: len(set(ready_endpoints(self.view.slices.group(label).values(), 1))) == count),
                after(told),
            )
        )

    async def _template(self, transform: str) -> Object:
        """Of its pods as the gateway wrote it, without what only a kubelet wants, which costs the API server most."""
        deployment = await self.api.get(DEPLOYMENT, names.object_name(INSTANCE, transform))
        assert deployment is not None
        template: Object = deployment["spec"]["template"]
        containers = [{key: one[key] for key in KEPT} for one in template["spec"]["containers"]]
        return {**template, "spec": {"containers": containers, "securityContext": template["spec"]["securityContext"]}}

    async def _workers(self, transform: str) -> int:
        async with self.http.get(f"{self.gateway.endpoint}/v1/transforms/{transform}") as answer:
            return int((await answer.json())["workers"])

    async def _written(self, transform: str) -> Object:
        """Have the gateway begin to start a transform; the template of its pods."""
        await self.api.create(_paused(transform))
        async with asyncio.TaskGroup() as tasks:
            start = tasks.create_task(self._start(transform))
            await until(lambda: self.view.deployment(transform) is not None)
            start.cancel()
        return await self._template(transform)

    async def _start(self, transform: str) -> None:
        url = f"{self.gateway.endpoint}/v1/transforms/{transform}/start"
        async with self.http.post(url, timeout=PATIENT) as answer:
            assert answer.status == HTTPStatus.OK, await answer.text()

    async def _set_ready(self, pod: str, status: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        kinds = ("Ready", "ContainersReady")
        condition = {"status": status, "reason": "Tested", "lastTransitionTime": now}
        conditions = [{"type": kind, **condition} for kind in kinds]
        path = f"{POD.path(self.api.namespace, pod)}/status"
        await self.api.request("PATCH", path, body={"status": {"conditions": conditions}}, content_type=MERGE_PATCH)


async def until(condition: Condition, *, every: float = 0.01) -> None:
    """Wait for what others bring about."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not (await answer if isawaitable(answer := condition()) else answer):  # noqa: ASYNC110
            await asyncio.sleep(every)


def calls_in(text: str) -> Calls:
    """From metrics as a gateway shows them."""
    calls: Calls = Counter()
    for family in text_string_to_metric_families(text):
        if family.name == "shardgate_kubernetes_calls":
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    calls[sample.labels["method"], sample.labels["resource"]] += int(sample.value)
    return calls


def resident(gateway: HostGateway) -> int:
    """Bytes of the process that answers HTTP and watches."""
    (pid,) = gateway.workers()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def _paused(transform: str) -> Object:
    """A Deployment that makes no pods. What the gateway applies to it leaves `paused` and `replicas` as they are."""
    labels = names.labels(INSTANCE, transform)
    selector = {name: labels[name] for name in ("app.kubernetes.io/instance", names.LABEL_TRANSFORM)}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "etl", "image": "none"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": names.object_name(INSTANCE, transform), "labels": labels},
        "spec": {"paused": True, "replicas": REPLICAS, "selector": {"matchLabels": selector}, "template": template},
    }
