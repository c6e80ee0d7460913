"""Transforms one after the other: `resize >> embed` is one transform id like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardgate import wire
from shardgate.transform_like import TransformLike

if TYPE_CHECKING:
    from shardgate.gateway_like import GatewayLike
    from shardgate.urls import Bucket


class Pipeline(TransformLike):
    """What `a >> b` gives: objects through `a`, then `b`, in one request.

    Each stage's output is the next one's input, in the gateway, without a file in between. `args` of a request is an
    object by the names of the stages.

    Attributes:
        stages: Ids of the transforms, in the order in which they are applied.
        uuid: For `object_url(..., transform_id=)`.
    """

    def __init__(self, client: GatewayLike, stages: tuple[str, ...]) -> None:
        self._client = client
        self.stages = stages
        self.uuid = wire.STAGE_SEPARATOR.join(stages)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uuid!r})"

    def __rshift__(self, other: TransformLike) -> Pipeline:
        more = other.stages if isinstance(other, Pipeline) else (other.uuid,)
        return Pipeline(self._client, (*self.stages, *more))

    def get(self, bucket: str | Bucket, object_name: str, **options: Any) -> bytes:
        """The transformed object, whole; takes the options of `Client.object_url`."""
        return self._client.get(bucket, object_name, transform_id=self.uuid, **options)
