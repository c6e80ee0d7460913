"""`archpath=`: one member of a tar, served by the index that the cache built while it filled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardgate_gateway.cache.members import find
from shardgate_gateway.errors import GenerationChanged, NotFound
from shardgate_gateway.http.ranges import Span
from shardgate_gateway.http.reply import send_head, send_slice

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
    reading, member = await _find(service, source, name)
    try:
        span = Span(member.offset, member.offset + member.size)
        return await send_slice(call, reading, _meta(reading, member), span)
    finally:
        reading.aclose()


async def head_of(service: Service, call: Call, source: Source, name: str) -> Sent:
    reading, member = await _find(service, source, name)
    try:
        return await send_head(call, _meta(reading, member), cache=reading.state)
    finally:
        reading.aclose()


async def _find(service: Service, source: Source, name: str) -> tuple[Reading, Member]:
    """The archive and where the member lies in it, both of one version."""
    for _ in range(ATTEMPTS):
        before = await service.cache.open(source)
        etag = before.meta.etag
        before.aclose()
        members = await service.cache.members(source)
        reading = await service.cache.open(source)
        if reading.meta.etag == etag:
            member = find(members, name)
            if member is not None:
                return reading, member
            reading.aclose()
            raise NotFound(
                f"{source.label} has no member {name!r}", hint=f"it has {len(members)} members that are files"
            )
        reading.aclose()
    raise GenerationChanged(f"{source.label} is being overwritten again and again", hint="try again later")


def _meta(reading: Reading, member: Member) -> ObjectMeta:
    whole = reading.meta
    return replace(
        whole, key=member.name, size=member.size, etag=f"{whole.etag}-{member.offset}-{member.size}", content_type=None
    )
