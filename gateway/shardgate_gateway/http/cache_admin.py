"""What the cache holds, and telling it what to fetch or to drop ahead of time."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import reduce
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shardgate_gateway.cache.source import group_name
from shardgate_gateway.errors import BadRequest, GatewayError
from shardgate_gateway.http.request import object_key, parameters, provider
from shardgate_gateway.tokens import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.service import Bucket, Service

PARALLEL = 4
"""Objects prefetched at once: each may use `cache.parallel_parts` connections."""
REPORTED_FAILURES = 20
_PARAMETERS = frozenset({"bucket", "provider", "object", "prefix", "results"})


async def stat(service: Service, call: Call) -> web.StreamResponse:
    """Summed over all gateways."""
    forwarder = service.forwarder
    told = asdict(await service.cache.stat())
    if forwarder is not None and not forwarder.is_from_peer(call):
        told = reduce(_add, await forwarder.hear_others(call), told)
    return web.json_response(told)


def _add(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A gateway of another version may count other things."""
    return {
        name: _add(value, other.get(name, {})) if isinstance(value, dict) else value + other.get(name, 0)
        for name, value in one.items()
    }


async def prefetch(service: Service, call: Call) -> web.StreamResponse:
    """Fetch an object or all objects of a prefix; answers when they are in the caches of the gateways that own them."""
    forwarder = service.forwarder

    async def one(bucket: Bucket, key: str) -> int:
        if forwarder is not None and not forwarder.is_from_peer(call):
            told = await forwarder.ask_owner(call, bucket, key)
            if told is not None:
                return int(told["bytes"])
        source = bucket.source(key) if forwarder is None else forwarder.source(bucket, key)
        return (await service.cache.prefetch(source)).size or 0

    done, total, failures = await _for_all(service, call, READ, one)
    return web.json_response({"objects": done, "bytes": total, "failed": failures})


async def evict(service: Service, call: Call) -> web.StreamResponse:
    """Drop an object or all of a prefix, and all results of transforms of it, from the caches of all gateways.

    `results=false` leaves the results.
    """
    forwarder = service.forwarder
    with_results = parameters(call.query, _PARAMETERS).get("results", "true") != "false"

    async def one(bucket: Bucket, key: str) -> int:
        source = bucket.source(key)
        results = await service.cache.evict_group(group_name(source)) if with_results else 0
        return int(await service.cache.evict(source)) + results

    asked, evicted, failures = await _for_all(service, call, WRITE, one)
    if forwarder is not None and not forwarder.is_from_peer(call):
        evicted += sum(told["evicted"] for told in await forwarder.ask_others(call))
    return web.json_response({"objects": asked, "evicted": evicted, "failed": failures})


async def _for_all(
    service: Service, call: Call, scope: str, action: Callable[[Bucket, str], Awaitable[int]]
) -> tuple[int, int, list[dict[str, str]]]:
    """Run `action` on each object that is meant and that the caller's `scope` covers.

    Returns how many succeeded, the sum of what they returned, and who failed.

    A single object that fails raises; one of many is reported and does not stop the others.
    """
    given = parameters(call.query, _PARAMETERS)
    if "bucket" not in given or len(given.keys() & {"object", "prefix"}) != 1:
        raise BadRequest("say which bucket=, and either object= or prefix=")
    wanted = given.get("object") or f"{given.get('prefix', '')}*"
    bucket = service.buckets.find(given["bucket"], provider(given), call.grant, action=scope, key=wanted)
    if "object" in given:
        key = object_key(given["object"])
        call.grant.require(scope, f"{bucket}/{key}")
        return 1, await action(bucket, key), []
    if not call.grant.allows_below(scope, f"{bucket}/{given['prefix']}"):
        raise call.grant.lacks(scope, f"{bucket}/{given['prefix']}*")
    done = total = 0
    failures: list[dict[str, str]] = []
    async for page in _pages(bucket, given["prefix"]):
        keys = [key for key in page if call.grant.allows(scope, f"{bucket}/{key}")]
        for first in range(0, len(keys), PARALLEL):
            group = keys[first : first + PARALLEL]
            results = await asyncio.gather(*(action(bucket, key) for key in group), return_exceptions=True)
            for key, result in zip(group, results, strict=True):
                if isinstance(result, GatewayError):
                    failures.append({"object": key, "code": result.code, "message": result.message})
                elif isinstance(result, BaseException):
                    raise result
                else:
                    done, total = done + 1, total + result
    return done, total, failures[:REPORTED_FAILURES]


async def _pages(bucket: Bucket, prefix: str) -> AsyncIterator[list[str]]:
    token = None
    while True:
        page = await bucket.store.list(prefix, token=token)
        yield [meta.key for meta in page.objects]
        token = page.token
        if token is None:
            return
