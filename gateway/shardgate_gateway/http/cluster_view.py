"""The cluster as one gateway sees it, and what gateways tell each other."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.request import object_key, parameters, provider

if TYPE_CHECKING:
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel

_PARAMETERS = frozenset({"provider", "bucket", "object"})


async def show(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Who the gateways are, who this one is, and who answers; with `challenge=`, each one's proof at `/healthz`."""
    calls = kernel.calls
    challenge = parameters(call.query, frozenset({"challenge"})).get("challenge")
    members: list[dict[str, Any]] = [
        {"name": member.name, "url": member.url, "live": live}
        for member, live in (calls.peers.members if calls else ())
    ]
    if challenge is not None:
        for member in members:
            member["proof"] = kernel.tokens.prove(member["name"], member["url"], challenge)
    return web.json_response({"me": kernel.name, "members": members})


async def forget(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Another gateway wrote or deleted this object: nothing older is served from here any more."""
    given = parameters(call.query, _PARAMETERS)
    if given.keys() != _PARAMETERS:
        raise BadRequest("say which provider=, bucket= and object=")
    bucket = kernel.buckets.find(given["bucket"], provider(given), call.grant)
    await kernel.objects.forget(bucket, object_key(given["object"]))
    return web.Response(status=HTTPStatus.NO_CONTENT)
