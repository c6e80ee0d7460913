"""What the cache holds, and telling it what to fetch or to drop ahead of time."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web

from shardgate_gateway.auth.scopes import READ, WRITE
from shardgate_gateway.errors import BadRequest, GatewayError
from shardgate_gateway.http.passing_on import headers_for_peer, is_from_peer, target_of
from shardgate_gateway.http.request import object_key, parameters, provider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.objects.buckets import Bucket

PARALLEL = 4
"""Objects prefetched at once: each may use `cache.parallel_parts` connections."""
REPORTED_FAILURES = 20
_PARAMETERS = frozenset({"bucket", "provider", "object", "prefix", "results"})


async def stat(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Summed over all gateways."""
    total = asdict(await kernel.cache.stat())
    calls = kernel.calls
    if calls is not None and not is_from_peer(calls, call):
        headers = headers_for_peer(calls, call)
        total = reduce(_add, await calls.poll_others(call.request.method, target_of(call), headers), total)
    return web.json_response(total)


def _add(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A gateway of another version may count other things."""
    return {
        name: _add(value, other.get(name, {})) if isinstance(value, dict) else value + other.get(name, 0)
        for name, value in one.items()
    }


async def prefetch(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Fetch an object or all objects of a prefix; answers when they are in the caches of the gateways that own them."""

    async def one(bucket: Bucket, key: str) -> int:
        answer = await _ask_owner(kernel, call, bucket, key)
        if answer is not None:
            return int(answer["bytes"])
        return (await kernel.objects.prefetch(bucket, key)).size or 0

    done, total, failures = await _for_all(kernel, call, READ, one)
    return web.json_response({"objects": done, "bytes": total, "failed": failures})


async def _ask_owner(kernel: Kernel, call: Call, bucket: Bucket, key: str) -> dict[str, Any] | None:
    """Have the same done by the owner of one object; None where it is for this gateway to do."""
    calls = kernel.calls
    if calls is None or is_from_peer(calls, call):
        return None
    query = urlencode({"provider": bucket.provider, "bucket": bucket.name, "object": key})
    members = kernel.objects.ownership.before_me(bucket, key)
    return await calls.ask_first(members, f"{call.path}?{query}", headers_for_peer(calls, call))


async def evict(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Drop an object or all of a prefix, and all results of transforms of it, from the caches of all gateways.

    `results=false` leaves the results.
    """
    with_results = parameters(call.query, _PARAMETERS).get("results", "true") != "false"

    async def one(bucket: Bucket, key: str) -> int:
        return await kernel.objects.evict(bucket, key, results=with_results)

    asked, evicted, failures = await _for_all(kernel, call, WRITE, one)
    calls = kernel.calls
    if calls is not None and not is_from_peer(calls, call):
        answers = await calls.ask_others(target_of(call), headers_for_peer(calls, call))
        evicted += sum(answer["evicted"] for answer in answers)
    return web.json_response({"objects": asked, "evicted": evicted, "failed": failures})


async def _for_all(
    kernel: Kernel, call: Call, scope: str, action: Callable[[Bucket, str], Awaitable[int]]
) -> tuple[int, int, list[dict[str, str]]]:
    """Run `action` on each object that is meant and that the caller's `scope` covers.

    Returns how many succeeded, the sum of what they returned, and who failed.

    A single object that fails raises; one of many is reported and does not stop the others.
    """
    given = parameters(call.query, _PARAMETERS)
    if "bucket" not in given or len(given.keys() & {"object", "prefix"}) != 1:
        raise BadRequest("say which bucket=, and either object= or prefix=")
    wanted = given.get("object") or f"{given.get('prefix', '')}*"
    bucket = kernel.buckets.find(given["bucket"], provider(given), call.grant, action=scope, key=wanted)
    if "object" in given:
        key = object_key(given["object"])
        call.grant.require(scope, f"{bucket}/{key}")
        return 1, await action(bucket, key), []
    if not call.grant.allows_below(scope, f"{bucket}/{given['prefix']}"):
        raise call.grant.missing_scope(scope, f"{bucket}/{given['prefix']}*")
    done = total = 0
    failures: list[dict[str, str]] = []
    async for page in kernel.objects.pages(bucket, given["prefix"]):
        keys = [meta.key for meta in page.objects if call.grant.allows(scope, f"{bucket}/{meta.key}")]
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
