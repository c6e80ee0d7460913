"""Which buckets there are, and what is in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.conditions import quoted
from shardgate_gateway.http.request import number, parameters, provider

if TYPE_CHECKING:
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.service import Service
    from shardgate_gateway.stores.base import ObjectMeta

PAGE = 1000
_PARAMETERS = frozenset({"provider", "prefix", "token", "limit", "delimiter"})


async def show_all(service: Service, _call: Call) -> web.StreamResponse:
    """Names and rules. Not where they lie: a location may hold credentials."""
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
                for bucket in service.buckets
            ]
        }
    )


async def show_objects(service: Service, call: Call, name: str) -> web.StreamResponse:
    """One page of objects."""
    given = parameters(call.query, _PARAMETERS)
    bucket = service.buckets.find(name, provider(given))
    limit = number(given, "limit", PAGE)
    if not 1 <= limit <= PAGE:
        raise BadRequest(f"limit={limit} is not between 1 and {PAGE}")
    if given.get("delimiter", "/") != "/":
        raise BadRequest("the only delimiter is /")
    page = await bucket.store.list(
        given.get("prefix", ""), token=given.get("token") or None, limit=limit, delimiter="delimiter" in given
    )
    return web.json_response(
        {
            "objects": [describe(meta) for meta in page.objects],
            "prefixes": list(page.prefixes),
            "token": page.token,
        }
    )


def describe(meta: ObjectMeta) -> dict[str, Any]:
    return {
        "name": meta.key,
        "size": meta.size,
        "etag": quoted(meta.etag),
        "last_modified": meta.last_modified.isoformat() if meta.last_modified else None,
    }
