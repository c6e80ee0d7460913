"""shardgate: read shards through the gateway, transformed where the data is.

    >>> from shardgate import Client, WDTransform
    >>> client = Client("http://127.0.0.1:51080")
    >>> client.object_url("gcp://sharded-imagenet", "imagenet-train-000000.tar")
    'http://127.0.0.1:51080/v1/objects/sharded-imagenet/imagenet-train-000000.tar?provider=gcp'

What needs more than the base installation (plots, webdataset, the gateway) is imported when it is first used. So are
the client and what pickles: gateway and runtime import this package for its contract alone, so an ETL pod that starts
does not wait for urllib3, and the gateway never loads cloudpickle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shardgate.errors import (
    BadRequest,
    Busy,
    CaptureError,
    Conflict,
    EmbeddedGatewayError,
    GatewayError,
    GatewayUnreachable,
    InvalidName,
    MissingExtra,
    NotFound,
    ObjectChanged,
    ShardgateError,
    TemplateError,
    TransferIncomplete,
    TransformFailed,
    Unauthorized,
    UpstreamFailed,
)

if TYPE_CHECKING:
    from shardgate.client import Client, ObjectInfo
    from shardgate.container import ContainerTransform
    from shardgate.local_gateway import embedded
    from shardgate.notices import CaptureWarning, ResultWarning
    from shardgate.pipeline import Pipeline
    from shardgate.transform import BytesTransform, WDTransform
    from shardgate.viz import display_loader_images, display_shard_images
    from shardgate.wds_opener import install_opener

__all__ = [
    "BadRequest",
    "Busy",
    "BytesTransform",
    "CaptureError",
    "CaptureWarning",
    "Client",
    "Conflict",
    "ContainerTransform",
    "EmbeddedGatewayError",
    "GatewayError",
    "GatewayUnreachable",
    "InvalidName",
    "MissingExtra",
    "NotFound",
    "ObjectChanged",
    "ObjectInfo",
    "Pipeline",
    "ResultWarning",
    "ShardgateError",
    "TemplateError",
    "TransferIncomplete",
    "TransformFailed",
    "Unauthorized",
    "UpstreamFailed",
    "WDTransform",
    "display_loader_images",
    "display_shard_images",
    "embedded",
    "install_opener",
]

_LAZY = {
    "BytesTransform": "shardgate.transform",
    "CaptureWarning": "shardgate.notices",
    "Client": "shardgate.client",
    "ContainerTransform": "shardgate.container",
    "ObjectInfo": "shardgate.client",
    "Pipeline": "shardgate.pipeline",
    "ResultWarning": "shardgate.notices",
    "WDTransform": "shardgate.transform",
    "display_loader_images": "shardgate.viz",
    "display_shard_images": "shardgate.viz",
    "embedded": "shardgate.local_gateway",
    "install_opener": "shardgate.wds_opener",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        metadata = import_module("importlib.metadata")
        try:
            return metadata.version("shardgate")
        except metadata.PackageNotFoundError:  # a folder on the path, not an installation
            return "unknown"
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the public names, also those that were not imported yet."""
    return [*__all__, "__version__", *(name for name in globals() if name.startswith("__"))]
