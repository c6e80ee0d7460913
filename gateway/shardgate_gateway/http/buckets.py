"""Which buckets there are, and what is in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from shardgate_gateway.auth.scopes import READ
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.request import number, parameters, provider
from shardgate_gateway.stores.base import quoted_etag

if TYPE_CHECKING:
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.stores.base import ObjectMeta

PAGE = 1000
_PARAMETERS = frozenset({"provider", "prefix", "token", "limit", "delimiter"})


async def show_all(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Names and rules of the buckets of which the caller may read something.

    Not where they lie: a location may hold credentials.
    """
    return web.json_response(
        {
            "buckets": [
                {
                    "bucket": str(bucket),
                    "provider": bucket.provider,
                    "name": bucket.name,
                    "freshness": bucket.settings.freshness,
                    "read_only": bucket.settings.read_only,
                }
                for bucket in kernel.buckets
                if call.grant.allows_below(READ, f"{bucket}/")
            ]
        }
    )


async def show_objects(kernel: Kernel, call: Call, name: str) -> web.StreamResponse:
    """One page of those objects and folders that the caller may read; a page may be empty and not the last."""
    given = parameters(call.query, _PARAMETERS)
    prefix = given.get("prefix", "")
    bucket = kernel.buckets.find(name, provider(given), call.grant, key=f"{prefix}*")
    if not call.grant.allows_below(READ, f"{bucket}/{prefix}"):
        raise call.grant.missing_scope(READ, f"{bucket}/{prefix}*")
    limit = number(given, "limit", PAGE)
    if not 1 <= limit <= PAGE:
        raise BadRequest(f"limit={limit} is not between 1 and {PAGE}")
    if given.get("delimiter", "/") != "/":
        raise BadRequest("the only delimiter is /")
    page = await kernel.objects.list(
        bucket, prefix, token=given.get("token") or None, limit=limit, delimiter="delimiter" in given
    )
    return web.json_response(
        {
            "objects": [describe(m) for m in page.objects if call.grant.allows(READ, f"{bucket}/{m.key}")],
            "prefixes": [folder for folder in page.prefixes if call.grant.allows_below(READ, f"{bucket}/{folder}")],
            "token": page.token,
        }
    )


def describe(meta: ObjectMeta) -> dict[str, Any]:
    return {
        "name": meta.key,
        "size": meta.size,
        "etag": quoted_etag(meta.etag),
        "last_modified": meta.last_modified.isoformat() if meta.last_modified else None,
    }
