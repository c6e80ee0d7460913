"""Environments on their way from the Job that made them and to the pods that use them, streamed both ways."""

from __future__ import annotations

import base64
import binascii
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from shardgate_gateway.auth.scopes import ENVIRONMENT
from shardgate_gateway.errors import BadRequest, NotFound
from shardgate_gateway.http.body import send_parts
from shardgate_gateway.http.head import entity, head
from shardgate_gateway.http.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardgate_gateway.etl.environments import Environments
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.stores.base import ObjectStream

_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
"""RFC 9530."""


async def get(environments: Environments, call: Call, digest: str) -> web.StreamResponse:
    call.grant.require(ENVIRONMENT, digest)
    stream = await environments.open(digest)
    fields = head(HTTPStatus.OK, entity(stream.meta), request_id=call.id, length=stream.meta.size, closing=call.closing)
    return await send_parts(call, HTTPStatus.OK, fields, _parts(stream), length=stream.meta.size)


async def head_of(environments: Environments, call: Call, digest: str) -> web.StreamResponse:
    call.grant.require(ENVIRONMENT, digest)
    meta = await environments.find(digest)
    if meta is None:
        raise NotFound(f"there is no environment {digest}")
    return web.Response(headers={hdrs.CONTENT_LENGTH: str(meta.size), hdrs.CONTENT_TYPE: "application/gzip"})


async def put(kernel: Kernel, environments: Environments, call: Call, digest: str) -> web.StreamResponse:
    """201 if it is new, 200 if there is one already, which stays as it is."""
    call.grant.require(ENVIRONMENT, digest)
    upload = Upload(call, kernel.settings.etl.environment_bytes, kernel.settings.serve.upload_stall_seconds)
    if upload.size is None:
        raise BadRequest("an environment is uploaded with its length", hint="send Content-Length")
    new = await environments.keep(digest, upload.chunks(), size=upload.size, sha256=_announced(call))
    response = web.Response(status=HTTPStatus.CREATED if new else HTTPStatus.OK)
    if not new:
        response.force_close()  # its body was not read
    return response


def _announced(call: Call) -> bytes:
    match = _DIGEST.fullmatch(call.headers.get("Content-Digest", ""))
    try:
        return base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        return b""


async def _parts(stream: ObjectStream) -> AsyncGenerator[bytes | memoryview]:
    try:
        async for chunk in stream.chunks:
            yield chunk
    finally:
        await stream.aclose()
