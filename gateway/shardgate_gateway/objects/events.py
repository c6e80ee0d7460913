"""What happens to objects: every write that passes a gateway is announced to who listens there.

A listener runs after the store has answered, before whoever wrote is answered, in the gateway that did the write. Its
failure is logged and changes nothing else: the object is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from shardgate_gateway.objects.buckets import Bucket
    from shardgate_gateway.stores.base import ObjectMeta


@dataclass(frozen=True, slots=True)
class Written:
    """The store holds a new version of an object."""

    bucket: Bucket
    key: str
    meta: ObjectMeta


@dataclass(frozen=True, slots=True)
class Deleted:
    """The store holds this object no more."""

    bucket: Bucket
    key: str


ObjectEvent: TypeAlias = Written | Deleted
ObjectListener: TypeAlias = Callable[[ObjectEvent], Awaitable[None]]
