"""`archpath=`: one member of a tar (`objects/members.py`) as an answer.

Conditions are answered before anything is fetched or computed, and nothing is fetched or computed for a HEAD: that of
an archive which is not in the cache has an etag, but no length, and can't say whether there is such a member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from shardgate_gateway.http.conditions import Version, is_conditional, not_modified
from shardgate_gateway.http.ranges import Span
from shardgate_gateway.http.reply import send_head, send_not_modified, send_slice
from shardgate_gateway.objects.members import member_meta, open_kept_member, open_member

if TYPE_CHECKING:
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.http.body import Sent
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.stores.base import ObjectMeta


async def get(kernel: Kernel, call: Call, source: Source, name: str) -> Sent:
    if is_conditional(call.headers):
        meta = member_meta(await kernel.cache.head(source), name)
        if _is_current(call, meta):
            return await send_not_modified(call, meta)
    found = await open_member(kernel.cache, source, name)
    try:
        span = Span(found.member.offset, found.member.offset + found.member.size)
        return await send_slice(call, found.reading, found.meta, span)
    finally:
        found.reading.aclose()


async def head_of(kernel: Kernel, call: Call, source: Source, name: str) -> Sent:
    found = await open_kept_member(kernel.cache, source, name)
    if found is None:
        return await send_head(call, member_meta(await kernel.cache.head(source), name))
    try:
        return await send_head(call, found.meta, cache=found.reading.state)
    finally:
        found.reading.aclose()


def _is_current(call: Call, meta: ObjectMeta) -> bool:
    """Whether the reader has this version of a member; any version (`*`) is none that it can have of nothing.

    Raises:
        PreconditionFailed: The reader wants another one.
    """
    current = not_modified(call.headers, Version.of(meta))
    return current and call.headers.get(hdrs.IF_NONE_MATCH, "").strip() != "*"
