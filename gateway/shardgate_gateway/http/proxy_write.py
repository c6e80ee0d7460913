"""A PUT or DELETE of an object, done by the gateway that it belongs to.

The owner is asked first whether it takes the body, so until then nothing is lost by asking the next in rank. A DELETE
that may have been heard is not repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from shardgate import wire
from shardgate_gateway import metrics
from shardgate_gateway.cluster.connection import NotReached
from shardgate_gateway.http.passing_on import NOT_PASSED_BACK, headers_for_peer, is_from_peer, target_of
from shardgate_gateway.http.upload import Upload

if TYPE_CHECKING:
    from shardgate_gateway.cluster.calls import PeerCalls
    from shardgate_gateway.cluster.membership import Member
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel
    from shardgate_gateway.objects.buckets import Bucket


async def write_at_owner(kernel: Kernel, call: Call, bucket: Bucket, key: str) -> web.StreamResponse | None:
    """The answer of the gateway that does the write; None where it is for this one to do."""
    ownership = kernel.objects.ownership
    calls = ownership.calls
    if calls is None or is_from_peer(calls, call):
        return None
    for member in ownership.before_me(bucket, key):
        try:
            return await _pass_on(kernel, calls, call, member)
        except NotReached as error:
            metrics.FORWARDED.labels("skip").inc()
            calls.peers.suspect(member, error)
    return None


async def _pass_on(kernel: Kernel, calls: PeerCalls, call: Call, member: Member) -> web.StreamResponse:
    serve = kernel.settings.serve
    method = call.request.method
    body = Upload(call, serve.max_put_bytes, serve.upload_stall_seconds) if method == hdrs.METH_PUT else None
    answer = await calls.write(member, method, target_of(call), headers_for_peer(calls, call), body)
    metrics.FORWARDED.labels("proxy").inc()
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in NOT_PASSED_BACK}
    headers.pop(hdrs.CONTENT_LENGTH, None)
    headers[wire.MEMBER_HEADER] = member.name
    return web.Response(status=answer.status, body=answer.content, headers=headers)
