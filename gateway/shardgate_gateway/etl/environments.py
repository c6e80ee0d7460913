"""Environments: archives of the requirements that an image lacks, which pods unpack at their start.

An environment is named by the digest of what it is made from: the image, its Python, and the requirements. What the
bytes are is the business of pip at the moment when it is made, so two that are made at the same time may differ. The
first one that is whole stays: whoever comes later finds it there.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from shardgate_gateway.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate_gateway.stores.base import ObjectMeta, ObjectStream, Store


class Environments:
    """Kept in a store, beside the packages."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, digest: str) -> ObjectMeta | None:
        """What is known of an environment; None where there is none."""
        try:
            return await self._store.head(_key(digest))
        except NotFound:
            return None

    async def open(self, digest: str) -> ObjectStream:
        """Its bytes.

        Raises:
            NotFound: There is none.
            UpstreamError: The store failed.
        """
        try:
            return await self._store.get(_key(digest))
        except NotFound:
            raise NotFound(
                f"there is no environment {digest}", hint="starting a transform that needs it makes it anew"
            ) from None

    async def keep(self, digest: str, body: AsyncIterator[bytes], *, size: int, sha256: bytes) -> bool:
        """Store one, unless it is there already.

        Args:
            digest: Its name.
            body: Its bytes; not touched if it is there.
            size: How many.
            sha256: Of the bytes.

        Returns:
            Whether it is new.

        Raises:
            BadRequest: The bytes are not those that were announced; nothing is stored.
            UpstreamError: The store failed.
        """
        if await self.find(digest) is not None:
            return False
        await self._store.put(_key(digest), _checked(body, size, sha256), size=size)
        return True


def _key(digest: str) -> str:
    return f"environments/{digest}.tar.gz"


async def _checked(body: AsyncIterator[bytes], size: int, sha256: bytes) -> AsyncIterator[bytes]:
    count, digest = 0, hashlib.sha256()
    async for chunk in body:
        count += len(chunk)
        digest.update(chunk)
        if count > size:
            break
        yield chunk
    if count != size or digest.digest() != sha256:
        raise BadRequest("the body is not the one that its length and digest announce", hint="nothing was stored")
