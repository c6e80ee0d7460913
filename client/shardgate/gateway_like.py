"""What a transform needs of the client that registered it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from shardgate.admin import TransformsApi
    from shardgate.urls import Bucket


class GatewayLike(Protocol):
    """A client of a gateway; `Client` is one."""

    @property
    def transforms(self) -> TransformsApi:
        """The transforms of the gateway."""

    def get(self, bucket: str | Bucket, object_name: str, **options: Any) -> bytes:
        """A whole object, or the result of a transform of it."""
