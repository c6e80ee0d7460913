"""Credentials for the Kubernetes API: of the pod that this runs in, or of a kubeconfig."""

from __future__ import annotations

from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from shardgate_gateway.errors import BadRequest

IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


async def login(kubeconfig: str) -> tuple[ApiClient, str]:
    """A client, and the namespace that belongs to its credentials.

    Args:
        kubeconfig: A file; empty takes the service account of this pod, or the user's own kubeconfig outside.

    Raises:
        BadRequest: There are no usable credentials.
    """
    configuration = Configuration()
    try:
        namespace = _load_own(configuration) if not kubeconfig else ""
        if not namespace:
            await config.load_kube_config(kubeconfig or None, client_configuration=configuration)
            _, context = config.list_kube_config_contexts(kubeconfig or None)
            namespace = context["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise BadRequest(
            f"no way to the Kubernetes API: {error}", hint="set kubernetes.kubeconfig, or run the gateway in a pod"
        ) from error
    return ApiClient(configuration), namespace


def _load_own(configuration: Configuration) -> str:
    """Take the service account of the pod that this runs in; returns its namespace, or "" outside of a pod."""
    if not IN_CLUSTER_NAMESPACE.exists():
        return ""
    config.load_incluster_config(configuration)
    return IN_CLUSTER_NAMESPACE.read_text().strip()
