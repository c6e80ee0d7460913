"""GET and HEAD with `transform_id=`: the result of a transform of an object.

The raw object is opened first, which pins its version. What the result is follows from that version and the request
alone, so its etag is known before anything runs. A result that is kept, or is to be kept, is then an object like any
other; all others are streamed from a worker, and their length is known only at the end.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.etl.relay import TransformRequest
from shardgate_gateway.http.conditions import Version, not_modified
from shardgate_gateway.http.reply import send_chunked, send_head, send_not_modified

if TYPE_CHECKING:
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.etl.registry import TransformRecord
    from shardgate_gateway.http.body import Sent
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.request import ObjectTarget
    from shardgate_gateway.http.service import Service
    from shardgate_gateway.stores.base import ObjectMeta


async def get(service: Service, call: Call, target: ObjectTarget, source: Source) -> Sent:
    assert target.transform is not None
    record = await service.registry.resolve(target.transform)
    reading = await service.cache.open(source)
    try:
        meta = _meta(record, reading.meta, target)
        if not_modified(call.headers, Version.of(meta)):
            return await send_not_modified(call, meta)
        request = TransformRequest(
            record=record,
            source=source,
            reading=reading,
            args=target.args,
            seed=target.seed,
            epoch=target.epoch,
            request_id=call.id,
        )
        parts = service.relay.stream(request)
        return await send_chunked(call, meta, parts, cache="computed", more=_named(record))
    finally:
        reading.aclose()


async def head_of(service: Service, call: Call, target: ObjectTarget, source: Source) -> Sent:
    assert target.transform is not None
    record = await service.registry.resolve(target.transform)
    meta = _meta(record, await service.cache.head(source), target)
    return await send_head(call, meta, more=_named(record))


def _named(record: TransformRecord) -> str:
    return f"{wire.TRANSFORM_HEADER}: {record.id}\r\n"


def _meta(record: TransformRecord, raw: ObjectMeta, target: ObjectTarget) -> ObjectMeta:
    identity = (raw.etag, record.id, target.args, str(target.seed), str(target.epoch))
    etag = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    kind = "application/x-tar" if record.manifest.kind == "sample" else None
    return replace(raw, etag=etag, size=None, content_type=kind)
