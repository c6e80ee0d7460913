"""Where things are found at a gateway: its default address, the paths of the API, and query parameters."""

from __future__ import annotations

from urllib.parse import quote

DEFAULT_PORT = 51080
DEFAULT_ENDPOINT = f"http://127.0.0.1:{DEFAULT_PORT}"
TRANSFORM_PARAMETERS = ("transform_id", "etl_name", "uuid")
"""Query parameters that name a transform; the first is ours, the others are accepted as synonyms."""

OBJECTS = "/v1/objects/"
"""Before the bucket and the key of an object."""
BUCKETS = "/v1/buckets"
TRANSFORMS = "/v1/transforms"
ENVIRONMENTS = "/v1/environments"
CACHE = "/v1/cache"
CLUSTER = "/v1/cluster"
DEMAND = "/v1/cluster/demand"
FORGET = "/v1/cluster/forget"
ALIVE = "/healthz"
READY = "/readyz"
METRICS = "/metrics"


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def bucket_path(name: str) -> str:
    return f"{BUCKETS}/{segment(name)}"


def transform_path(transform_id: str, *rest: str) -> str:
    """Of a transform, or of what belongs to it: `transform_path(id, "stats")`."""
    return "/".join((TRANSFORMS, segment(transform_id), *rest))


def environment_path(digest: str) -> str:
    return f"{ENVIRONMENTS}/{digest}"
