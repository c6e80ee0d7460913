"""The kinds of Kubernetes objects that the gateway knows, and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as the API speaks it: plain JSON. As model classes, pods cost ten times that."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of namespaced object."""

    name: str
    api_version: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        """Of all objects of a namespace, or of the one with this name."""
        root = "api" if "/" not in self.api_version else "apis"
        return f"/{root}/{self.api_version}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


POD = Kind("Pod", "v1", "pods")
SERVICE = Kind("Service", "v1", "services")
SECRET = Kind("Secret", "v1", "secrets")
EVENT = Kind("Event", "v1", "events")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
STATEFUL_SET = Kind("StatefulSet", "apps/v1", "statefulsets")
JOB = Kind("Job", "batch/v1", "jobs")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
ENDPOINT_SLICE = Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")

KINDS = {
    kind.name: kind for kind in (POD, SERVICE, SECRET, EVENT, DEPLOYMENT, STATEFUL_SET, JOB, LEASE, ENDPOINT_SLICE)
}


def kind_of(obj: Object) -> Kind:
    """The kind of a manifest."""
    return KINDS[obj["kind"]]


def name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def labels_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}
