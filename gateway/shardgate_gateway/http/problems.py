"""The one table from our errors to HTTP, and how a problem looks on the wire.

A problem is JSON: `{"code", "message", "hint", "request_id"}`. `code` is stable and made for programs, `message` names
the cause, `hint` says what can be done. An exception that is not ours is a bug: it becomes 500 with a request id, and a
traceback in the log under the same id. After the headers of a body have gone out there is no status to set any more:
`body.py` breaks the connection instead.
"""

from __future__ import annotations

import errno
import json
import logging
import math
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from shardgate import wire
from shardgate_gateway import errors
from shardgate_gateway.bounded_log import BoundedLog
from shardgate_gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Mapping

_bugs = BoundedLog(logging.getLogger(__name__), "unexpected exceptions")


class MethodNotAllowed(GatewayError):
    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path} has no {method}", hint=f"it has {allowed}")
        self.allowed = allowed


class TooLarge(GatewayError):
    code = "too_large"


class RequestStalled(GatewayError):
    code = "request_stalled"


class ExpectationFailed(GatewayError):
    code = "expectation_failed"


class VersionNotSupported(GatewayError):
    code = "http_version_not_supported"


STATUS: dict[type[GatewayError], int] = {
    errors.BadRequest: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    MethodNotAllowed: 405,
    RequestStalled: 408,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    TooLarge: 413,
    errors.RangeNotSatisfiable: 416,
    ExpectationFailed: 417,
    errors.PackageInvalid: 400,
    errors.Busy: 503,
    errors.Draining: 503,
    errors.UpstreamUnavailable: 503,
    errors.UpstreamStalled: 504,
    errors.GenerationChanged: 503,
    errors.UpstreamError: 502,
    errors.KubernetesError: 502,
    errors.KubernetesUnavailable: 503,
    errors.UpstreamCorrupt: 502,
    # Transform and shard are what they are: another try of the same request ends the same way.
    errors.TransformError: 422,
    errors.TransformChanged: 503,
    errors.TransformStartError: 422,
    errors.SampleError: 422,
    errors.WorkerLost: 502,
    errors.CacheCorrupt: 500,
    errors.LocalStorageError: 503,
    VersionNotSupported: 505,
    GatewayError: 500,
}

RETRY_SECONDS = 1.0
"""Retry-After of a 503 whose error names no time."""


def status_of(error: GatewayError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def as_gateway_error(error: Exception, request_id: str) -> GatewayError:
    """Our own error, or what an unexpected exception is reported as."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return errors.Busy("no file descriptor is free", hint="raise the limit (ulimit -n), or connect less often")
    _bugs.write(logging.ERROR, "request %s: unexpected %s", request_id, type(error).__name__, exc_info=error)
    return GatewayError(
        "the gateway failed on this request", hint=f"its log has the cause under request id {request_id}"
    )


def problem(error: GatewayError, request_id: str) -> web.Response:
    status = status_of(error)
    return web.Response(
        status=status, body=body_of(error, request_id), content_type="application/json", headers=_headers(error, status)
    )


def body_of(error: GatewayError, request_id: str) -> bytes:
    said = {"code": error.code, "message": error.message, "hint": error.hint, "request_id": request_id}
    return json.dumps(said).encode() + b"\n"


def _headers(error: GatewayError, status: int) -> Mapping[str, str]:
    if isinstance(error, errors.RangeNotSatisfiable):
        return {hdrs.CONTENT_RANGE: f"bytes */{error.size}", hdrs.ACCEPT_RANGES: "bytes"}
    if isinstance(error, MethodNotAllowed):
        return {hdrs.ALLOW: error.allowed}
    if isinstance(error, errors.Unauthenticated):
        return {hdrs.WWW_AUTHENTICATE: 'Bearer realm="shardgate"'}
    if status in (429, 503):
        place = {wire.PLACE_HEADER: error.place} if isinstance(error, errors.Busy) and error.place else {}
        return {hdrs.RETRY_AFTER: str(math.ceil(error.retry_after or RETRY_SECONDS)), **place}
    return {}
