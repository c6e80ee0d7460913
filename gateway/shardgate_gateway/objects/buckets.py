"""The configured buckets, found by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardgate.providers import PROVIDERS
from shardgate_gateway.auth.grant import ANYBODY
from shardgate_gateway.auth.scopes import READ
from shardgate_gateway.cache.peer import KeptSource
from shardgate_gateway.cache.source import Freshness, StoreSource
from shardgate_gateway.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.auth.grant import Grant
    from shardgate_gateway.settings import BucketSettings
    from shardgate_gateway.stores.base import Store


class Bucket:
    """A configured bucket: its store, and the rules for what is read from it."""

    def __init__(self, provider: str, name: str, store: Store, settings: BucketSettings) -> None:
        self.provider = provider
        self.name = name
        self.store = store
        self.settings = settings
        self._freshness = {
            "immutable": Freshness.immutable(),
            "revalidate": Freshness.after(settings.revalidate_seconds),
            "always": Freshness.always(),
        }[settings.freshness]

    def __str__(self) -> str:
        return f"{self.provider}://{self.name}"

    def source(self, key: str) -> StoreSource:
        return StoreSource(self.store, self.provider, self.name, key, self._freshness)

    def kept(self, key: str) -> KeptSource:
        """The same for a gateway that owns the object, and asks whether it is here."""
        return KeptSource(self.store, self.provider, self.name, key, self._freshness)


class Buckets:
    """All buckets, found by name; the provider may be left out where the name alone says which one is meant."""

    def __init__(self, buckets: list[Bucket]) -> None:
        self._by_name: dict[str, dict[str, Bucket]] = {}
        for bucket in buckets:
            self._by_name.setdefault(bucket.name, {})[bucket.provider] = bucket

    def __iter__(self) -> Iterator[Bucket]:
        for same_name in self._by_name.values():
            yield from same_name.values()

    def find(
        self, name: str, provider: str | None, grant: Grant = ANYBODY, *, action: str = READ, key: str = "*"
    ) -> Bucket:
        """The bucket of this name, among those in which `grant` opens something; all others are as if not there.

        Args:
            name: Of the bucket.
            provider: Of the bucket; None where the name alone says which one is meant.
            grant: Of the caller.
            action: What is wanted there, for the message of an error.
            key: Where in the bucket, for that message.

        Raises:
            NotFound: There is none.
            Forbidden: `grant` opens no bucket that could be called that, whether there is one or not.
            BadRequest: There are several, and no provider says which one.
        """
        candidates = {each: bucket for each, bucket in self._by_name.get(name, {}).items() if grant.knows(str(bucket))}
        if provider is None and len(candidates) > 1:
            known = " and ".join(str(bucket) for bucket in candidates.values())
            raise BadRequest(f"there are {known}", hint="say which one with provider=")
        bucket = next(iter(candidates.values()), None) if provider is None else candidates.get(provider)
        if bucket is None:
            if not any(grant.knows(f"{each}://{name}") for each in ((provider,) if provider else PROVIDERS)):
                raise grant.missing_scope(action, f"{provider or '*'}://{name}/{key}")
            wanted = f"{provider}://{name}" if provider else name
            known = ", ".join(str(bucket) for bucket in self if grant.knows(str(bucket)))
            raise NotFound(f"there is no bucket {wanted}", hint=f"this gateway has {known or 'no bucket at all'}")
        return bucket
