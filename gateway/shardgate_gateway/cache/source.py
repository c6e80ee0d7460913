"""Anything that can be fetched and kept: an object of a store, or the result of a transform."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream, Store


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long a cached version is served without asking whether it is still the current one."""

    max_age: float
    """Seconds; 0 asks at every open, infinity never."""

    @classmethod
    def immutable(cls) -> Freshness:
        return cls(math.inf)

    @classmethod
    def after(cls, seconds: float) -> Freshness:
        return cls(seconds)

    @classmethod
    def always(cls) -> Freshness:
        return cls(0.0)

    def since(self, opened: float) -> float:
        """What was asked for at this time or later is fresh for a read that was opened at `opened` (monotonic)."""
        return opened - self.max_age


class Source(ABC):
    """One object, whatever its version."""

    entry_name: str
    """64 hex digits, see `entry_name`."""
    label: str
    """ "gcp://bucket/key", for messages."""
    bucket: str = ""
    """ "gcp://bucket" where it is an object of one, for metrics."""
    freshness: Freshness
    ranged: bool = False
    """Bytes [a, b) cost about b - a bytes, so that a large body may be fetched by several ranges at once."""
    recomputed: bool = False
    """Each `open` makes the bytes anew, so its version alone does not promise that they are the same ones."""
    from_owner: bool = False
    """The gateway that owns the object gives the bytes, and may look here for them: see `cache/peer.py`."""
    waits_for_owner: bool = True
    """Who reads it may join a fill that is `from_owner`."""

    @abstractmethod
    async def open(
        self, *, start: int = 0, end: int | None = None, if_match: str | None = None, prefix: bytes | None = None
    ) -> ObjectStream:
        """Open bytes `[start, end)` of the current version; raises as `Store.get`.

        `prefix` is the digest (xxh3_128) of bytes `[0, start)` as a reader or a file has them already. It comes with
        `start` where a body of a `recomputed` source is continued, and such a source raises TransformError if the bytes
        that it leaves out have another digest. Others have `if_match` for that.

        The chunks stay valid after the iterator went on: who yields from memory that is used again copies first.
        """

    def without_owner(self) -> Source:
        """The same object from where no owner is waited for."""
        return self

    @property
    def gaps(self) -> int:
        """Samples that are missing from a whole body for a cause that may pass. Known at its end."""
        return 0

    def may_be_kept(self) -> bool:
        """Whether a body that came whole is to be published; those who read it already get it either way."""
        return True

    @abstractmethod
    async def head(self) -> ObjectMeta:
        """Describe the current version; raises as `Store.head`. `size` may be None where it is not known in advance."""


class StoreSource(Source):
    """An object in a remote bucket."""

    ranged = True

    def __init__(self, store: Store, provider: str, bucket: str, key: str, freshness: Freshness) -> None:
        self._store = store
        self._key = key
        self.bucket = f"{provider}://{bucket}"
        self.entry_name = entry_name("object", provider, bucket, key)
        self.label = f"{provider}://{bucket}/{key}"
        self.freshness = freshness

    async def open(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        prefix: bytes | None = None,  # noqa: ARG002
    ) -> ObjectStream:
        return await self._store.get(self._key, start=start, end=end, if_match=if_match)

    async def head(self) -> ObjectMeta:
        return await self._store.head(self._key)


GROUP_DIGITS = 32


def group_name(source: Source) -> str:
    """How the names of all entries begin that are made of this object, whatever its version."""
    return entry_name("of", source.entry_name)[:GROUP_DIGITS]


def entry_name_in(group: str, *identity: str) -> str:
    """The name of an entry of this group."""
    return group + entry_name(*identity)[: 64 - GROUP_DIGITS]


def entry_name(*identity: str) -> str:
    """The name of the entry that is for this; the parts are framed, so that ("a", "b/c") and ("a/b", "c") differ."""
    return hashlib.sha256(msgpack.packb(identity)).hexdigest()
