"""What this gateway process knows of the cluster: four watches, and whom their changes are told.

Pods, Deployments and EndpointSlices of all transforms, and warnings about pods, trimmed to what anybody here looks at.
They are held by the transform's label; nothing polls.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.pod_problems import condition_of, is_ready
from shardgate_gateway.etl.kubernetes.state import Observed
from shardgate_gateway.kube.kinds import DEPLOYMENT, ENDPOINT_SLICE, EVENT, POD, annotations_of, labels_of
from shardgate_gateway.kube.watch import Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object


class ClusterView:
    """Use `open_view`.

    Attributes:
        deployments, pods, slices: By the transform's label.
        events: Warnings about pods, by the name of the pod.
    """

    def __init__(self, deployments: Reflector, pods: Reflector, slices: Reflector, events: Reflector) -> None:
        self.deployments = deployments
        self.pods = pods
        self.slices = slices
        self.events = events
        self._all = (deployments, pods, slices, events)
        self._changed: dict[str, asyncio.Event] = {}
        for reflector in (deployments, pods, slices):
            reflector.subscribe(self._tell)
        events.subscribe(self._tell_of_event)

    @property
    def synced(self) -> bool:
        return all(reflector.synced for reflector in self._all)

    async def wait_until_synced(self) -> None:
        for reflector in self._all:
            await reflector.wait_until_synced()

    def deployment(self, transform_id: str) -> Object | None:
        found = self.deployments.group(names.transform_label(transform_id)).values()
        return next((obj for obj in found if annotations_of(obj).get(names.ANNOTATION_ID) == transform_id), None)

    def observe(self, transform_id: str) -> Observed:
        pods = tuple(self.pods.group(names.transform_label(transform_id)).values())
        events = {name: tuple(self.events.group(name).values()) for name in (pod["metadata"]["name"] for pod in pods)}
        return Observed(self.deployment(transform_id), pods, events)

    def images(self, pod: str) -> str:
        """Digests of the images that this pod runs; "" while the API server has not said so."""
        return str(self.pods.items.get(pod, {}).get("images", ""))

    def spec(self, pod: str) -> str:
        """Digest of the template that this pod was made of."""
        return annotations_of(self.pods.items.get(pod, {"metadata": {}})).get(names.ANNOTATION_SPEC, "")

    async def wait_for_change(self, transform_id: str, seconds: float) -> None:
        """Return at the next change of anything of this transform, or after so many seconds."""
        event = self._changed.setdefault(names.transform_label(transform_id), asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def _tell(self, label: str) -> None:
        event = self._changed.pop(label, None)
        if event is not None:
            event.set()

    def _tell_of_event(self, pod: str) -> None:
        if pod in self.pods.items:
            self._tell(_label(self.pods.items[pod]))


@asynccontextmanager
async def open_view(api: KubeApi, instance: str) -> AsyncIterator[ClusterView]:
    """Begin to watch. Nothing is known until `wait_until_synced`."""
    mine = names.selector(names.instance_name(instance))
    async with AsyncExitStack() as stack:
        reflectors = [
            await stack.enter_async_context(reflector)
            for reflector in (
                Reflector(api, DEPLOYMENT, mine, group=_label, keep=_deployment),
                Reflector(api, POD, mine, group=_label, keep=_pod),
                Reflector(api, ENDPOINT_SLICE, mine, group=_label, keep=_slice),
                Reflector(api, EVENT, fields="type=Warning,involvedObject.kind=Pod", group=_pod_name, keep=_event),
            )
        ]
        yield ClusterView(*reflectors)


def _label(obj: Object) -> str:
    return labels_of(obj).get(names.LABEL_TRANSFORM, "")


def _pod_name(event: Object) -> str:
    return str(event["involvedObject"]["name"])


def _deployment(obj: Object) -> Object:
    metadata = ("name", "generation", "resourceVersion", "creationTimestamp", "annotations", "labels")
    return {
        "metadata": _only(obj["metadata"], *metadata),
        "spec": {"replicas": obj["spec"].get("replicas", 1)},
        "status": _only(obj.get("status") or {}, "observedGeneration", "conditions", "replicas", "readyReplicas"),
    }


def _pod(obj: Object) -> Object:
    """Of a pod that is ready nobody asks why: of ten thousand that saves the half."""
    about = {
        "metadata": _only(obj["metadata"], "name", "resourceVersion", "creationTimestamp", "deletionTimestamp")
        | {
            "labels": {names.LABEL_TRANSFORM: _label(obj)},
            "annotations": _only(annotations_of(obj), names.ANNOTATION_SPEC),
        },
        "images": _images(obj),
    }
    return about | (_of_ready_pod(obj) if is_ready(obj) else _of_pod(obj))


def _images(obj: Object) -> str:
    """The digests of the images that its containers run, one string for the many pods that run the same."""
    running = (obj.get("status") or {}).get("containerStatuses") or ()
    found = sorted({c["imageID"].rpartition("@")[2] for c in running if c.get("imageID")})
    return sys.intern(" ".join(found))


def _of_ready_pod(obj: Object) -> Object:
    restarted = [c for c in obj["status"].get("containerStatuses") or () if c["restartCount"]]
    return {
        "spec": {"containers": [_only(container, "name") for container in obj["spec"]["containers"]]},
        "status": {
            "conditions": [_only(condition_of(obj, "Ready"), "type", "status", "lastTransitionTime")],
            "containerStatuses": [_only(c, "name", "state", "restartCount") for c in restarted],
        },
    }


def _of_pod(obj: Object) -> Object:
    status = _only(obj.get("status") or {}, "phase", "reason", "message")
    for name in ("containerStatuses", "initContainerStatuses"):
        if given := (obj.get("status") or {}).get(name):
            status[name] = [
                _only(c, "name", "state", "lastState", "ready", "started", "restartCount", "image") for c in given
            ]
    kept = ("type", "status", "reason", "message", "lastTransitionTime")
    status["conditions"] = [
        _only(condition, *kept)
        for condition in (obj.get("status") or {}).get("conditions") or ()
        if condition["type"] in {"PodScheduled", "PodReadyToStartContainers", "Ready"}
    ]
    containers = [_only(container, "name", "command", "resources") for container in obj["spec"]["containers"]]
    return {"spec": _only(obj["spec"], "nodeName") | {"containers": containers}, "status": status}


def _slice(obj: Object) -> Object:
    endpoints = [
        _only(endpoint, "addresses", "conditions", "nodeName", "zone")
        | {"targetRef": _only(endpoint.get("targetRef") or {}, "name")}
        for endpoint in obj.get("endpoints") or ()
    ]
    return {
        "metadata": _only(obj["metadata"], "name", "resourceVersion", "labels"),
        "endpoints": endpoints,
        "ports": obj.get("ports"),
    }


def _event(obj: Object) -> Object:
    about = {"name": obj["involvedObject"].get("name", "")}
    return {
        "metadata": _only(obj["metadata"], "name", "resourceVersion"),
        "involvedObject": about,
        "reason": obj.get("reason", ""),
        "message": obj.get("message", ""),
        "count": obj.get("count") or 1,
        "firstTimestamp": obj.get("firstTimestamp"),
    }


def _only(obj: Object, *fields: str) -> dict[str, Any]:
    return {name: obj[name] for name in fields if name in obj}
