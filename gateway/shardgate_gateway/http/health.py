"""Is it alive, does it take requests, what does it count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from shardgate_gateway import metrics
from shardgate_gateway.cluster.membership import url_of
from shardgate_gateway.errors import Draining
from shardgate_gateway.http.observed import build_metric, cache_metrics, process_metrics
from shardgate_gateway.http.request import parameters

if TYPE_CHECKING:
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel


async def alive(kernel: Kernel, call: Call) -> web.StreamResponse:
    """With `challenge=`, a client that is about to send its token here can tell who this is: see `/v1/cluster`."""
    challenge = parameters(call.query, frozenset({"challenge"})).get("challenge")
    proof = {} if challenge is None else {"proof": kernel.tokens.prove(kernel.name, _own_url(kernel, call), challenge)}
    return web.json_response({"status": "alive", "member": kernel.name, **proof})


def _own_url(kernel: Kernel, call: Call) -> str:
    """The address that this gateway can prove to be its own, whatever the members' list says of it.

    That is what its operator set. Where nothing is set, it is where this request arrived, as a name server or
    Kubernetes tell it to others.
    """
    cluster = kernel.settings.cluster
    own = cluster.members.get(kernel.name) or cluster.url
    transport = call.request.transport
    if own or transport is None:
        return own
    host, port = transport.get_extra_info("sockname")[:2]
    return url_of(host.removeprefix("::ffff:"), port)  # that is how a socket for IPv6 and IPv4 shows the latter


async def ready(kernel: Kernel, _call: Call) -> web.StreamResponse:
    if kernel.traffic.draining:
        raise Draining("this gateway is shutting down", hint="ask another one")
    if problem := kernel.cache.disk_problem:
        # It still answers every request, from the stores: turned away, all gateways with a full disk would be gone.
        return web.json_response(
            {"status": "degraded", "member": kernel.name, "cache": f"it can't write to its disk: {problem}"}
        )
    return web.json_response({"status": "ready", "member": kernel.name})


async def scrape(kernel: Kernel, _call: Call) -> web.StreamResponse:
    found = [*cache_metrics(await kernel.cache.stat()), *process_metrics(), build_metric()]
    return web.Response(body=metrics.scrape(found), headers={"Content-Type": CONTENT_TYPE_LATEST})
