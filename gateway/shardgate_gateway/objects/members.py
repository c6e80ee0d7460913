"""One member of a tar, by the index that the cache built while it filled.

A version of the archive and the member's name say what the member's bytes are, so its etag is made of those two. It is
known before the archive is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardgate_gateway.cache.members import find
from shardgate_gateway.errors import NotFound

if TYPE_CHECKING:
    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cache.members import Member
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.stores.base import ObjectMeta


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A member and the open reading of its archive, both of one version; closing the reading stays with the caller."""

    reading: Reading
    member: Member
    meta: ObjectMeta


async def open_member(cache: Cache, source: Source, name: str) -> OpenMember:
    """Open the archive once, whole, and find a member in it.

    Raises:
        NotFound: There is no archive, or no such member in it.
        BadRequest: It is not a tar that can be trusted.
        GatewayError: As `Cache.open_whole`.
    """
    return await _find(cache, source, await cache.open_whole(source), name)


async def open_kept_member(cache: Cache, source: Source, name: str) -> OpenMember | None:
    """As `open_member`, for which nothing is fetched or computed; None where the archive is not in the cache."""
    reading = await cache.open_kept(source)
    return None if reading is None else await _find(cache, source, reading, name)


def member_meta(archive: ObjectMeta, name: str) -> ObjectMeta:
    """What is known of a member before its archive is read; `name` as it was asked for."""
    digest = hashlib.blake2s(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return replace(archive, key=name, size=None, etag=f"{archive.etag}-{digest}", content_type=None)


async def _find(cache: Cache, source: Source, reading: Reading, name: str) -> OpenMember:
    try:
        member = _pick(source, await cache.members_of(source, reading), name)
    except BaseException:
        reading.aclose()
        raise
    meta = replace(member_meta(reading.meta, name), key=member.name, size=member.size)
    return OpenMember(reading, member, meta)


def _pick(source: Source, members: tuple[Member, ...], name: str) -> Member:
    member = find(members, name)
    if member is None:
        raise NotFound(f"{source.label} has no member {name!r}", hint=f"it has {len(members)} members that are files")
    return member
