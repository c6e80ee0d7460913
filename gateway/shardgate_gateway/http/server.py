"""aiohttp's HTTP/1.1 server with our answers: what it refuses on its own is told like any other problem."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from shardgate import wire
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.http.call import new_request_id
from shardgate_gateway.http.hot import HotPath, Parser
from shardgate_gateway.http.problems import as_gateway_error, problem

if TYPE_CHECKING:
    import asyncio

    from aiohttp.http_parser import HttpParser
    from aiohttp.web import BaseRequest

    from shardgate_gateway.errors import GatewayError
    from shardgate_gateway.http.router import Router
    from shardgate_gateway.kernel import Kernel

LINGER_SECONDS = 5.0
"""How long the rest of a refused upload is read, so that the reader of our answer does not meet a reset first."""


class Server(web.Server):
    """Makes a connection for every socket.

    Args:
        kernel: The gateway.
        router: Answers requests.
    """

    def __init__(self, kernel: Kernel, router: Router) -> None:
        # Cancellation: a reader that leaves ends the work that is done for it alone. Decompression would store other
        # bytes than were sent.
        super().__init__(
            router.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=kernel.settings.serve.keepalive_seconds,
            lingering_time=LINGER_SECONDS,
        )
        self.hot = HotPath(kernel)
        self._kernel = kernel

    def __call__(self) -> RequestHandler:
        return Connection(self, self.hot, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._kernel.traffic.connections += 1

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._kernel.traffic.connections -= 1


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ()

    def __init__(self, manager: Server, hot: HotPath, **options: Any) -> None:
        super().__init__(manager, **options)
        self._parser = cast("HttpParser[Any]", Parser(self._parser, self, hot))

    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Only broken HTTP gets here: the router answers all else."""
        request_id = new_request_id()
        error: GatewayError
        if isinstance(exc, Exception) and not isinstance(exc, HttpProcessingError):
            error = as_gateway_error(exc, request_id)
        else:
            said = (message or "").strip().splitlines() or ["it can't be parsed"]
            error = BadRequest(f"this is not a valid HTTP/1.1 request: {said[0]}", hint="send well-formed HTTP/1.1")
        response = problem(error, request_id)
        response.headers[wire.REQUEST_ID_HEADER] = request_id
        response.headers[hdrs.SERVER] = "shardgate"
        response.force_close()
        return response
