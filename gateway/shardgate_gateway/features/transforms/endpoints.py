"""Registering transforms, and everything one can ask about one."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import hdrs, web

from shardgate import wire
from shardgate.wire import paths
from shardgate_gateway.auth.scopes import PACKAGE, REGISTER
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.registry import PAGE
from shardgate_gateway.http.body import Sent, break_off
from shardgate_gateway.http.request import number, parameters
from shardgate_gateway.http.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel

TAIL_LINES = 200
MAX_TAIL_LINES = 10_000
_OPTIONS = frozenset(TransformOptions.model_fields)


async def register(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Store a package; options stand in the query. 201 if it is new, 200 if it was there."""
    options = TransformOptions.parse(parameters(call.query, _OPTIONS))
    settings = kernel.settings
    upload = Upload(call, settings.etl.package_bytes, settings.serve.upload_stall_seconds)
    async with upload.in_file(settings.state.dir) as package, kernel.uploads.hold(len(package)):
        record = await kernel.registrar.register(package, options, created_by=call.grant.subject)
    status = HTTPStatus.CREATED if record.is_new else HTTPStatus.OK
    return web.json_response(await _describe(kernel, record), status=status)


async def show_all(kernel: Kernel, call: Call) -> web.StreamResponse:
    """One page, without the sources; the header Link leads to the next."""
    given = parameters(call.query, frozenset({"limit", "token"}))
    limit = number(given, "limit", PAGE)
    if not 1 <= limit <= PAGE:
        raise BadRequest(f"limit={limit} is not between 1 and {PAGE}")
    records, after = await kernel.registry.page(given.get("token", ""), limit)
    described = [_without_source(await _describe(kernel, record)) for record in records]
    query = urlencode({"limit": limit, "token": after})
    link = {hdrs.LINK: f'<{paths.TRANSFORMS}?{query}>; rel="next"'} if after else None
    return web.json_response(described, headers=link)


async def show(kernel: Kernel, _call: Call, name: str) -> web.StreamResponse:
    return web.json_response(await _describe(kernel, await kernel.registry.find(name)))


async def start(kernel: Kernel, _call: Call, name: str) -> web.StreamResponse:
    """Answers when the transform's workers are ready, or with what kept them from it."""
    record = await kernel.registry.find(name)
    await kernel.runner.start(record)
    return web.json_response(await _describe(kernel, record))


async def stop(kernel: Kernel, _call: Call, name: str) -> web.StreamResponse:
    record = await kernel.registry.find(name)
    await kernel.runner.stop(record)
    return web.json_response(await _describe(kernel, record))


async def delete(kernel: Kernel, _call: Call, name: str) -> web.StreamResponse:
    record = await kernel.registry.find(name)
    await kernel.registry.delete(record.id)
    await kernel.runner.remove(record.id)
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def package(kernel: Kernel, call: Call, name: str) -> web.StreamResponse:
    """For who may register code, and for the workers of this transform, who ask by its id."""
    if not call.grant.allows(REGISTER):
        call.grant.require(PACKAGE, name)
    record = await kernel.registry.find(name)
    return web.Response(
        body=await kernel.registry.package(record.id),
        content_type="application/octet-stream",
        headers={hdrs.ETAG: f'"{record.digest}"'},
    )


async def logs(kernel: Kernel, call: Call, name: str) -> web.StreamResponse:
    """The last lines; with `follow=true`, those that come, too, until the reader leaves."""
    given = parameters(call.query, frozenset({"tail", "follow"}))
    tail = number(given, "tail", TAIL_LINES)
    if tail > MAX_TAIL_LINES:
        raise BadRequest(f"tail={tail} is more than {MAX_TAIL_LINES} lines")
    record = await kernel.registry.find(name)
    if given.get("follow", "false") != "true":
        return web.Response(text=await kernel.runner.logs(record.id, tail=tail))
    async with aclosing(kernel.runner.follow(record.id, tail=tail)) as parts:
        first = await anext(parts, b"")  # an error before the head is an answer of its own
        return await _send_log(kernel, call, first, parts)


async def _send_log(kernel: Kernel, call: Call, first: bytes, parts: AsyncGenerator[bytes]) -> web.StreamResponse:
    """Go on until the reader leaves or the gateway ends; a failure in the middle resets the connection."""
    response = web.StreamResponse(headers={wire.REQUEST_ID_HEADER: call.id})
    response.content_type = "text/plain"
    response.charset = "utf-8"
    response.enable_chunked_encoding()
    await response.prepare(call.request)
    transport = call.request.transport
    try:
        part: bytes | None = first
        while part is not None and not (transport is None or transport.is_closing() or kernel.traffic.draining):
            if part:
                await response.write(part)
            part = await anext(parts, None)
    except ConnectionError:
        return Sent(HTTPStatus.OK, keep_alive=False)
    except Exception as error:  # noqa: BLE001 (there can't be a second head in the middle of chunks)
        break_off(call, error)
        return Sent(HTTPStatus.OK, keep_alive=False)
    return response


async def stats(kernel: Kernel, _call: Call, name: str) -> web.StreamResponse:
    record = await kernel.registry.find(name)
    return web.json_response(
        {"id": record.id, "name": record.name} | (await kernel.registry.stats(record.id)).counters()
    )


def _without_source(described: dict[str, Any]) -> dict[str, Any]:
    return described | {"manifest": {name: value for name, value in described["manifest"].items() if name != "source"}}


async def _describe(kernel: Kernel, record: TransformRecord) -> dict[str, Any]:
    status = await kernel.runner.status(record.id)
    return {
        "id": record.id,
        "name": record.name,
        "digest": record.digest,
        "manifest": asdict(record.manifest),
        "options": record.options.model_dump(mode="json"),
        "package_bytes": record.package_bytes,
        "created_at": record.created_at.isoformat(),
        "created_by": record.created_by,
        "generation": record.generation,
        "environment": record.environment,
        "is_random": record.is_random,
        "is_unstable": record.is_unstable,
        **asdict(status),
        "since": status.since.isoformat() if status.since else None,
    }
