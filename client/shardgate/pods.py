"""What a transform's owner may ask of the cluster for its pods, and how that travels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class PodOptions(TypedDict, total=False):
    """Keyword arguments of every transform.

    Where workers are processes of the gateway's machine, only `env` means something; `secrets` and `image` are refused
    there, and the rest waits for a cluster.

    Attributes:
        resources: What one pod may use: `{"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": 1}`.
        replicas: So many pods, always.
        min_replicas: Pods that stay when nobody asks; 0 by default, and then the next request waits for the first.
        max_replicas: Pods that there may be when many ask.
        node_selector: Labels of the nodes that fit: `{"pool": "cpu"}`.
        tolerations: Taints of nodes that don't matter, as in a pod's spec: `[{"key": "gpu", "operator": "Exists"}]`.
        env: Environment variables. What is secret belongs into a Secret.
        secrets: Names of Secrets whose keys become environment variables.
        image: An image of your own, with `shardgate[runtime]` in it.
    """

    resources: Mapping[str, str | int | float]
    replicas: int
    min_replicas: int
    max_replicas: int
    node_selector: Mapping[str, str]
    tolerations: Sequence[Mapping[str, Any]]
    env: Mapping[str, str]
    secrets: Sequence[str]
    image: str


def as_query(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as query parameters: what has parts as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)
        for name, value in options.items()
    }
