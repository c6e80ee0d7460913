"""Which handler answers, and what every answer has: a request id, a count, a problem in place of an exception."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from shardgate import wire
from shardgate.error_header import pack_error
from shardgate_gateway import metrics
from shardgate_gateway.auth.grant import NOBODY
from shardgate_gateway.errors import Busy, NotFound
from shardgate_gateway.http.auth import authenticate
from shardgate_gateway.http.body import Sent
from shardgate_gateway.http.call import Call
from shardgate_gateway.http.problems import MethodNotAllowed, as_gateway_error, problem
from shardgate_gateway.http.request import decode
from shardgate_gateway.http.request_log import Answered, client_of, log_access, log_problem
from shardgate_gateway.http.route import BY_HANDLER, route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.web import BaseRequest

    from shardgate_gateway.auth.grant import Grant
    from shardgate_gateway.http.route import Handler, Route
    from shardgate_gateway.kernel import Kernel

UNKNOWN_ROUTE = route("unknown", "", needs=BY_HANDLER)


class Router:
    """Answers requests.

    Args:
        kernel: The gateway.
        routes: All of them; the first whose pattern fits answers.
    """

    def __init__(self, kernel: Kernel, routes: Sequence[Route]) -> None:
        self._kernel = kernel
        self._routes = routes

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        traffic = self._kernel.traffic
        call = Call.of(request, draining=traffic.draining)
        route, arguments = self._find(call.path)
        began = time.monotonic()
        status = "499"
        traffic.begin()
        metrics.RUNNING.inc()
        try:
            response, grant = await self._answer(call, route, arguments)
            status = str(response.status)
        finally:
            traffic.end()
            metrics.RUNNING.dec()
            metrics.REQUESTS.labels(route.name, status).inc()
            metrics.DURATION.labels(route.name).observe(time.monotonic() - began)
        if self._kernel.settings.log.access:
            _log_access(call, response, grant, time.monotonic() - began)
        return response

    def _find(self, path: str) -> tuple[Route, tuple[str, ...]]:
        for each in self._routes:
            if match := each.pattern.fullmatch(path):
                return each, match.groups()
        return UNKNOWN_ROUTE, ()

    async def _answer(self, call: Call, route: Route, arguments: tuple[str, ...]) -> tuple[web.StreamResponse, Grant]:
        grant = NOBODY
        try:
            grant = self._authenticate(call, route)
            handler = self._admit(call, route, grant)
            response = await handler(replace(call, grant=grant), *map(decode, arguments))
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
            if call.closing or self._kernel.traffic.is_full:
                response.force_close()
        return response, grant

    def _authenticate(self, call: Call, route: Route) -> Grant:
        if route is UNKNOWN_ROUTE:
            raise NotFound(f"there is nothing at {call.path}", hint="objects are at /v1/objects/BUCKET/NAME")
        return NOBODY if route.public else authenticate(call.headers, self._kernel.tokens)

    def _admit(self, call: Call, route: Route, grant: Grant) -> Handler:
        if not route.public and self._kernel.traffic.is_full:
            metrics.REFUSED.inc()
            raise Busy(
                f"all {self._kernel.traffic.max_connections} connections of this gateway process are taken",
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
