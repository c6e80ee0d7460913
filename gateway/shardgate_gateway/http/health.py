"""Is it alive, does it take requests, what does it count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from shardgate_gateway import metrics
from shardgate_gateway.errors import Busy
from shardgate_gateway.http.request import parameters

if TYPE_CHECKING:
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.service import Service


async def alive(service: Service, call: Call) -> web.StreamResponse:
    """With `challenge=`, a client that is about to send its token here can tell who this is: see `/v1/cluster`."""
    challenge = parameters(call.query, frozenset({"challenge"})).get("challenge")
    proof = {} if challenge is None else {"proof": service.tokens.prove(service.name, challenge)}
    return web.json_response({"status": "alive", "member": service.name, **proof})


async def ready(service: Service, _call: Call) -> web.StreamResponse:
    if service.draining:
        raise Busy("this gateway is shutting down", hint="ask another one")
    return web.json_response({"status": "ready", "member": service.name})


async def scrape(_service: Service, _call: Call) -> web.StreamResponse:
    return web.Response(body=metrics.scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})
