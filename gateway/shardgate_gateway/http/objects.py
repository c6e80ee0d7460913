"""GET, HEAD, PUT and DELETE of objects: the conditions, ranges and headers around a `Reading`."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from shardgate_gateway.auth.scopes import APPLY, READ, USE, WRITE
from shardgate_gateway.errors import BadRequest, NotFound, PreconditionFailed
from shardgate_gateway.http import members, transformed
from shardgate_gateway.http.buckets import describe
from shardgate_gateway.http.conditions import Version, check_unchanged, is_conditional, not_modified
from shardgate_gateway.http.proxy_read import read_at_owner
from shardgate_gateway.http.proxy_write import write_at_owner
from shardgate_gateway.http.reply import send_head, send_not_modified, send_reading
from shardgate_gateway.http.request import object_target
from shardgate_gateway.http.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardgate_gateway.auth.grant import Grant
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.request import ObjectTarget
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.objects.buckets import Bucket

    Answer = Callable[[Kernel, Call, ObjectTarget, Source], Awaitable[web.StreamResponse]]


async def get(kernel: Kernel, call: Call) -> web.StreamResponse:
    return await _read(kernel, call, _get)


async def head_of(kernel: Kernel, call: Call) -> web.StreamResponse:
    return await _read(kernel, call, _head_of)


async def _read(kernel: Kernel, call: Call, answer: Answer) -> web.StreamResponse:
    """Find the object that is asked for, and have it read where it belongs."""
    target = object_target(call.request.raw_path)
    bucket = kernel.buckets.find(target.bucket, target.provider, call.grant, key=target.key)
    call = replace(call, bucket=str(bucket))

    async def here(call: Call, source: Source) -> web.StreamResponse:
        _require_read(call.grant, target, source.label)
        return await answer(kernel, call, target, source)

    copied = target.plain and call.request.method == hdrs.METH_GET
    return await read_at_owner(kernel, call, bucket, target.key, here, copied=copied)


async def _get(kernel: Kernel, call: Call, target: ObjectTarget, source: Source) -> web.StreamResponse:
    if target.transform is not None:
        return await transformed.get(kernel, call, target, source)
    if target.archpath is not None:
        return await members.get(kernel, call, source, target.archpath)
    return await get_source(kernel, call, source)


async def _head_of(kernel: Kernel, call: Call, target: ObjectTarget, source: Source) -> web.StreamResponse:
    if target.transform is not None:
        return await transformed.head_of(kernel, call, target, source)
    if target.archpath is not None:
        return await members.head_of(kernel, call, source, target.archpath)
    return await send_head(call, await kernel.cache.head(source))


async def get_source(kernel: Kernel, call: Call, source: Source) -> web.StreamResponse:
    """Any source whose bytes are kept: a raw object, or a result that is cached."""
    if is_conditional(call.headers):
        meta = await kernel.cache.head(source)
        if not_modified(call.headers, Version.of(meta)):
            return await send_not_modified(call, meta)
    reading = await kernel.cache.open(source)
    try:
        return await send_reading(call, reading)
    finally:
        reading.aclose()


async def put(kernel: Kernel, call: Call) -> web.StreamResponse:
    """Store a body whole or not at all, then forget what was cached of the object."""
    target, bucket = _found_for_writing(kernel, call)
    if (answer := await write_at_owner(kernel, call, bucket, target.key)) is not None:
        return answer
    call.grant.require(WRITE, f"{bucket}/{target.key}")
    await _check_conditions(call, bucket, target)
    upload = Upload(call, kernel.settings.serve.max_put_bytes, kernel.settings.serve.upload_stall_seconds)
    meta = await kernel.objects.put_here(bucket, target.key, upload, content_type=upload.content_type)
    return web.json_response(describe(meta), headers={hdrs.ETAG: Version.of(meta).header})


async def delete(kernel: Kernel, call: Call) -> web.StreamResponse:
    target, bucket = _found_for_writing(kernel, call)
    if (answer := await write_at_owner(kernel, call, bucket, target.key)) is not None:
        return answer
    call.grant.require(WRITE, f"{bucket}/{target.key}")
    await _check_conditions(call, bucket, target)
    await kernel.objects.delete_here(bucket, target.key)
    return web.Response(status=HTTPStatus.NO_CONTENT)


def _found_for_writing(kernel: Kernel, call: Call) -> tuple[ObjectTarget, Bucket]:
    target = object_target(call.request.raw_path)
    bucket = kernel.buckets.find(target.bucket, target.provider, call.grant, action=WRITE, key=target.key)
    if not target.plain or target.tagged:
        raise BadRequest(
            f"{call.request.method} works on whole raw objects", hint="leave transform_id, archpath and tag out"
        )
    return target, bucket


def _require_read(grant: Grant, target: ObjectTarget, label: str) -> None:
    """Who may read the object and use transforms may read any result of it; a worker reads what its job is about."""
    if target.transform is not None and grant.allows(APPLY, f"{target.transform}@{label}"):
        return
    grant.require(READ, label)
    if target.transform is not None:
        grant.require(USE)


async def _check_conditions(call: Call, bucket: Bucket, target: ObjectTarget) -> None:
    """`If-Match`, `If-Unmodified-Since` and `If-None-Match: *` of a write.

    The store is asked just before, so two writers at the same instant can both be let through.
    """
    if not is_conditional(call.headers):
        return
    try:
        version = Version.of(await bucket.store.head(target.key))
    except NotFound:
        if hdrs.IF_MATCH in call.headers:
            raise PreconditionFailed(f"{bucket}/{target.key} does not exist") from None
        return
    check_unchanged(call.headers, version)
    if hdrs.IF_NONE_MATCH in call.headers and not_modified(call.headers, version):
        raise PreconditionFailed(f"{bucket}/{target.key} exists already, with version {version.header}")
