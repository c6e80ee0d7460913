"""GET and HEAD with `transform_id=`: the result of a transform of an object.

The version of the raw object and the request alone say what the result is, so its etag is known, and conditions are
answered, before anything runs. A result that is kept is from then on an object like any other; all others are streamed
straight from a worker, and their length is known only at the end. A range makes a result one that is kept, where its
transform's policy allows that: it is computed whole first, and then read in part. Where the policy is `never`, a range
is ignored and the whole result comes with status 200, as HTTP allows.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import hdrs

from shardgate import wire
from shardgate.text import safe_line
from shardgate_gateway.errors import BadRequest, Busy, GenerationChanged, TransformChanged
from shardgate_gateway.etl.delivery import Kept, keepable
from shardgate_gateway.etl.hold import STAGE_SECONDS
from shardgate_gateway.etl.line import PLACE, Place
from shardgate_gateway.etl.recipe import Asker
from shardgate_gateway.http import members
from shardgate_gateway.http.conditions import Version, check_unchanged, is_conditional, not_modified
from shardgate_gateway.http.reply import gaps_line, send_chunked, send_head, send_not_modified, send_reading
from shardgate_gateway.http.request import small_number

if TYPE_CHECKING:
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.etl.recipe import Recipe
    from shardgate_gateway.http.body import Sent
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.http.request import ObjectTarget
    from shardgate_gateway.kernel import Kernel


RENAMINGS = 5
"""How often the environment of a transform, or its object, may change while one request asks for it."""
log = logging.getLogger(__name__)


async def get(kernel: Kernel, call: Call, target: ObjectTarget, source: Source) -> Sent:
    """Answer a GET; who waited for a worker in vain is told how to keep their place (`etl/line.py`)."""
    place = _place(kernel, call)
    context = PLACE.set(place)
    try:
        return await _get_steadily(kernel, call, target, source)
    except Busy as error:
        place = replace(place, refusals=max(place.refusals, error.refusals), seconds=None, held="")
        error.place = kernel.tokens.seal(place.written(), _asked(call))
        raise
    finally:
        PLACE.reset(context)


def _place(kernel: Kernel, call: Call) -> Place:
    """As we told the reader ourselves, or a new one."""
    note = kernel.tokens.unseal(call.headers.get(wire.PLACE_HEADER, ""), _asked(call))
    place = Place(time.time()) if note is None else Place.read(note)
    if wire.STAGES_HEADER in call.headers and place.seconds is None:
        return replace(place, seconds=STAGE_SECONDS)
    return place


def _asked(call: Call) -> str:
    return f"{call.path}?{call.query}"


async def _get_steadily(kernel: Kernel, call: Call, target: ObjectTarget, source: Source) -> Sent:
    """Answer a GET. What turns out to have another name while it is asked for, before a byte was sent, is asked again.

    Raises:
        GatewayError: There is no such result.
    """
    for _ in range(RENAMINGS):
        try:
            return await _get(kernel, call, target, source)
        except (TransformChanged, GenerationChanged) as error:
            log.info("request %s: %s", call.id, error.message)
    return await _get(kernel, call, target, source)


async def _get(kernel: Kernel, call: Call, target: ObjectTarget, source: Source) -> Sent:
    delivery = kernel.delivery
    recipe = await _recipe(kernel, target)
    asker = _asker(call, recipe)
    if target.archpath is not None:
        result = keepable(await delivery.describe(recipe, source, asker))
        return await members.get(kernel, call, result, target.archpath)
    if is_conditional(call.headers):
        result = await delivery.describe(recipe, source, asker)
        if not_modified(call.headers, Version.of(result.meta)):
            return await send_not_modified(call, result.meta)
    async with delivery.open(recipe, source, asker, wants_part=hdrs.RANGE in call.headers) as delivered:
        if isinstance(delivered, Kept):
            return await send_reading(call, delivered.reading, more=_named(recipe))
        result = delivered.result
        check_unchanged(call.headers, Version.of(result.meta))
        return await send_chunked(
            *(call, result.meta, delivered.chunks),
            cache="computed",
            more=_named(recipe),
            trailers=lambda: gaps_line(result.gaps),
        )


async def head_of(kernel: Kernel, call: Call, target: ObjectTarget, source: Source) -> Sent:
    """Content-Length is there if the result is in the cache; nothing is computed for a HEAD."""
    recipe = await _recipe(kernel, target)
    result = await kernel.delivery.describe(recipe, source, _asker(call, recipe))
    if target.archpath is not None:
        return await members.head_of(kernel, call, keepable(result), target.archpath)
    return await send_head(call, await kernel.cache.head(result), more=_named(recipe))


async def _recipe(kernel: Kernel, target: ObjectTarget) -> Recipe:
    assert target.transform is not None
    return await kernel.delivery.recipe(target.transform, target.args, seed=target.seed, epoch=target.epoch)


def _asker(call: Call, recipe: Recipe) -> Asker:
    return Asker(call.id, _stages(call, len(recipe.stages)))


def _stages(call: Call, own: int) -> int:
    """Stages of the whole pipeline: more than are asked for, where the worker of a later one asks."""
    said = call.headers.get(wire.STAGES_HEADER)
    if said is None:
        return own
    text, _, reader = said.partition(" ")
    count = small_number(text) or 0
    if not (own < count <= wire.MAX_STAGES and reader):
        raise BadRequest(
            f"{wire.STAGES_HEADER} can't be {safe_line(said, 100)!r}", hint="it is for workers of pipelines"
        )
    return count


def _named(recipe: Recipe) -> str:
    random = f"{wire.RANDOM_HEADER}: 1\r\n" if recipe.is_random else ""
    return f"{wire.TRANSFORM_HEADER}: {recipe.id}\r\n{random}"
