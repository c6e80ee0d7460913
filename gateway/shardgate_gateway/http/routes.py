"""Which handler answers, and what every answer has: a request id, a count, a problem in place of an exception.

The table works on the raw path, so that a quoted slash in a name never looks like the next segment.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from shardgate import wire
from shardgate.error_header import pack_error
from shardgate_gateway import metrics
from shardgate_gateway.errors import Busy, NotFound
from shardgate_gateway.http import buckets, cache_admin, cluster_view, environments, health, objects, transforms
from shardgate_gateway.http.auth import authenticate
from shardgate_gateway.http.body import Sent
from shardgate_gateway.http.call import Call
from shardgate_gateway.http.problems import MethodNotAllowed, as_gateway_error, problem
from shardgate_gateway.http.request import decode
from shardgate_gateway.http.request_log import Answered, client_of, log_access, log_problem
from shardgate_gateway.tokens import NOBODY, PEER, REGISTER, USE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.web import BaseRequest

    from shardgate_gateway.http.service import Service
    from shardgate_gateway.tokens import Grant

    Handler = Callable[..., Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """Handlers by method. What the pattern's groups match is decoded and passed on.

    Attributes:
        name: In metrics.
        needs: Scope of who reads here.
        changes: Scope of who does anything but GET and HEAD.
        pattern: Of the raw path.
        methods: Handlers; HEAD is GET without a body where nothing else is said.
        public: Answered without a token, also when the gateway is full.
    """

    name: str
    pattern: re.Pattern[str]
    methods: dict[str, Handler]
    needs: str
    changes: str
    public: bool = False


ANY_TOKEN = ""
"""Answered to whoever is known, with what their token lets them see."""
BY_RESOURCE = ""
"""The handler asks for the scope, because the scope names the object."""


def _route(
    name: str, pattern: str, *, needs: str, changes: str | None = None, public: bool = False, **methods: Handler
) -> Route:
    if "GET" in methods:
        methods.setdefault("HEAD", methods["GET"])
    return Route(name, re.compile(pattern), methods, needs, needs if changes is None else changes, public)


ROUTES = (
    _route(
        "objects",
        "/v1/objects/.*",
        needs=BY_RESOURCE,
        GET=objects.get,
        HEAD=objects.head_of,
        PUT=objects.put,
        DELETE=objects.delete,
    ),
    _route("buckets", "/v1/buckets/?", needs=ANY_TOKEN, GET=buckets.show_all),
    _route("list", "/v1/buckets/([^/]+)/?", needs=BY_RESOURCE, GET=buckets.show_objects),
    _route(
        "transforms",
        "/v1/transforms/?",
        needs=USE,
        changes=REGISTER,
        GET=transforms.show_all,
        POST=transforms.register,
    ),
    _route(
        "transform",
        "/v1/transforms/([^/]+)",
        needs=USE,
        changes=REGISTER,
        GET=transforms.show,
        DELETE=transforms.delete,
    ),
    _route("start", "/v1/transforms/([^/]+)/start", needs=USE, POST=transforms.start),
    _route("stop", "/v1/transforms/([^/]+)/stop", needs=USE, POST=transforms.stop),
    _route("package", "/v1/transforms/([^/]+)/package", needs=BY_RESOURCE, GET=transforms.package),
    _route(
        "environment",
        "/v1/environments/([0-9a-f]{64})",
        needs=BY_RESOURCE,
        GET=environments.get,
        HEAD=environments.head_of,
        PUT=environments.put,
    ),
    _route("logs", "/v1/transforms/([^/]+)/logs", needs=USE, GET=transforms.logs),
    _route("stats", "/v1/transforms/([^/]+)/stats", needs=USE, GET=transforms.stats),
    _route("cache", "/v1/cache/?", needs=ANY_TOKEN, GET=cache_admin.stat),
    _route("prefetch", "/v1/cache/prefetch", needs=BY_RESOURCE, POST=cache_admin.prefetch),
    _route("evict", "/v1/cache/evict", needs=BY_RESOURCE, POST=cache_admin.evict),
    _route("cluster", "/v1/cluster", needs=ANY_TOKEN, GET=cluster_view.show),
    _route("demand", "/v1/cluster/demand", needs=PEER, GET=cluster_view.demand),
    _route("forget", "/v1/cluster/forget", needs=PEER, POST=cluster_view.forget),
    _route("healthz", "/healthz", needs=ANY_TOKEN, public=True, GET=health.alive),
    _route("readyz", "/readyz", needs=ANY_TOKEN, public=True, GET=health.ready),
    _route("metrics", "/metrics", needs=ANY_TOKEN, GET=health.scrape),
)
NOWHERE = _route("unknown", "", needs=ANY_TOKEN)


class Front:
    """Answers requests.

    Args:
        service: What the handlers work with.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        service = self._service
        call = Call.of(request, draining=service.draining)
        route, arguments = _find(call.path)
        began = time.monotonic()
        status = "499"
        service.running += 1
        service.idle.clear()
        metrics.RUNNING.inc()
        try:
            response, grant = await self._answer(call, route, arguments)
            status = str(response.status)
        finally:
            service.running -= 1
            if not service.running:
                service.idle.set()
            metrics.RUNNING.dec()
            metrics.REQUESTS.labels(route.name, status).inc()
            metrics.DURATION.labels(route.name).observe(time.monotonic() - began)
        if service.settings.log.access:
            _log_access(call, response, grant, time.monotonic() - began)
        return response

    async def _answer(self, call: Call, route: Route, arguments: tuple[str, ...]) -> tuple[web.StreamResponse, Grant]:
        grant = NOBODY
        try:
            grant = self._authenticate(call, route)
            handler = self._admit(call, route, grant)
            response = await handler(self._service, replace(call, grant=grant), *map(decode, arguments))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (the table in problems.py knows what to say to each)
            told = as_gateway_error(error, call.id)
            response = problem(told, call.id)
            if not route.public:
                log_problem(call, told, grant)
            if call.request.method == hdrs.METH_HEAD:
                response.headers[wire.ERROR_HEADER] = pack_error(told.code, told.message, told.hint)
        if not isinstance(response, Sent):
            response.headers[wire.REQUEST_ID_HEADER] = call.id
            response.headers[hdrs.SERVER] = "shardgate"
            if call.closing or self._service.connections > self._service.max_connections:
                response.force_close()
        return response, grant

    def _authenticate(self, call: Call, route: Route) -> Grant:
        if route is NOWHERE:
            raise NotFound(f"there is nothing at {call.path}", hint="objects are at /v1/objects/BUCKET/NAME")
        return NOBODY if route.public else authenticate(call.headers, self._service.tokens)

    def _admit(self, call: Call, route: Route, grant: Grant) -> Handler:
        if not route.public and self._service.connections > self._service.max_connections:
            metrics.REFUSED.inc()
            raise Busy(
                f"all {self._service.max_connections} connections of this gateway process are taken",
                hint="connect less often, or raise serve.max_connections and ulimit -n",
            )
        handler = route.methods.get(call.request.method)
        if handler is None:
            raise MethodNotAllowed(call.request.method, call.path, ", ".join(sorted(route.methods)))
        if scope := route.needs if call.request.method in ("GET", "HEAD") else route.changes:
            grant.require(scope)
        return handler


def _log_access(call: Call, response: web.StreamResponse, grant: Grant, seconds: float) -> None:
    sent = response.sent if isinstance(response, Sent) else response.body_length
    if not sent and isinstance(response, web.Response) and isinstance(response.body, bytes):
        sent = len(response.body)  # it goes out after this
    client = client_of(call.request.transport)
    log_access(Answered(call.id, call.request.method, call.path, response.status, sent, seconds, grant.subject, client))


def _find(path: str) -> tuple[Route, tuple[str | Any, ...]]:
    for route in ROUTES:
        if match := route.pattern.fullmatch(path):
            return route, match.groups()
    return NOWHERE, ()
