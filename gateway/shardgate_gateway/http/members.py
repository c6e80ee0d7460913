"""`archpath=`: one member of a tar, served by the index that the cache built while it filled.

A version of the archive and the member's name say what the member's bytes are, so its etag is made of those two.
Conditions are answered from it before anything is fetched or computed, and nothing is fetched or computed for a HEAD:
that of an archive which is not in the cache has an etag, but no length, and can't say whether there is such a member.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import hdrs

from shardgate_gateway.cache.members import find
from shardgate_gateway.errors import GenerationChanged, NotFound
from shardgate_gateway.http.conditions import Version, is_conditional, not_modified
from shardgate_gateway.http.ranges import Span
from shardgate_gateway.http.reply import send_head, send_not_modified, send_slice

if TYPE_CHECKING:
    from shardgate_gateway.cache.members import Member
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.http.body import Sent
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.service import Service
    from shardgate_gateway.stores.base import ObjectMeta

ATTEMPTS = 3
"""Tries to get index and archive of the same version while someone overwrites it."""


async def get(service: Service, call: Call, source: Source, name: str) -> Sent:
    if is_conditional(call.headers):
        meta = described(await service.cache.head(source), name)
        if is_current(call, meta):
            return await send_not_modified(call, meta)
    reading, member = await _find(service, source, name)
    try:
        span = Span(member.offset, member.offset + member.size)
        return await send_slice(call, reading, _meta(reading, member, name), span)
    finally:
        reading.aclose()


async def head_of(service: Service, call: Call, source: Source, name: str) -> Sent:
    reading = await service.cache.open_kept(source)
    if reading is None:
        return await send_head(call, described(await service.cache.head(source), name))
    try:
        member = _pick(source, await service.cache.members_of(source, reading), name)
        return await send_head(call, _meta(reading, member, name), cache=reading.state)
    finally:
        reading.aclose()


def described(whole: ObjectMeta, name: str) -> ObjectMeta:
    """What is known of a member before its archive is read; `name` as it was asked for."""
    digest = hashlib.blake2s(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return replace(whole, key=name, size=None, etag=f"{whole.etag}-{digest}", content_type=None)


def is_current(call: Call, meta: ObjectMeta) -> bool:
    """Whether the reader has this version of a member; any version (`*`) is none that it can have of nothing.

    Raises:
        PreconditionFailed: The reader wants another one.
    """
    current = not_modified(call.headers, Version.of(meta))
    return current and call.headers.get(hdrs.IF_NONE_MATCH, "").strip() != "*"


async def _find(service: Service, source: Source, name: str) -> tuple[Reading, Member]:
    """The archive and where the member lies in it, both of one version."""
    for _ in range(ATTEMPTS):
        before = await service.cache.open(source)
        etag = before.meta.etag
        before.aclose()
        members = await service.cache.members(source)
        reading = await service.cache.open(source)
        if reading.meta.etag == etag:
            try:
                return reading, _pick(source, members, name)
            except BaseException:
                reading.aclose()
                raise
        reading.aclose()
    raise GenerationChanged(f"{source.label} is being overwritten again and again", hint="try again later")


def _pick(source: Source, members: tuple[Member, ...], name: str) -> Member:
    member = find(members, name)
    if member is None:
        raise NotFound(f"{source.label} has no member {name!r}", hint=f"it has {len(members)} members that are files")
    return member


def _meta(reading: Reading, member: Member, name: str) -> ObjectMeta:
    return replace(described(reading.meta, name), key=member.name, size=member.size)
