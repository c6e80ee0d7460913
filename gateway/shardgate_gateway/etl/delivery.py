"""How a reader gets the result of a recipe: from what is kept, or straight from a worker.

A read of a result goes:

    recipe = await delivery.recipe("resize,flip", args, seed, epoch)    # once per request
    result = await delivery.describe(recipe, source, asker)             # ETag and type are known now; nothing ran
    async with delivery.open(recipe, source, asker) as delivered: ...   # Kept, as any object, or Computed

Keeping costs as much as computing where the output is large, so it is a policy of the transform:

    never    computed for every reader
    always   computed into the cache, and served from there even while it is computed
    auto     the first reader gets it straight from the worker; if it turns out small it is kept from memory
             (`small_copy.py`). Who asks for the same result again has it computed into the cache, and everyone after
             that gets it from there.

A reader that wants a part of a result has it computed whole, into the cache, where the policy allows that.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from shardgate_gateway.errors import BadRequest
from shardgate_gateway.etl.pipeline import resolve_pipeline
from shardgate_gateway.etl.recipe import Recipe
from shardgate_gateway.etl.result_source import ResultSource
from shardgate_gateway.etl.small_copy import SmallCopies

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.cache.source import Source
    from shardgate_gateway.etl.recipe import Asker
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.relay import Relay
    from shardgate_gateway.etl.seen_requests import SeenRequests
    from shardgate_gateway.settings import EtlSettings
    from shardgate_gateway.stores.base import ObjectMeta


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that is in the cache, or on its way into it: read it as any object."""

    result: ResultSource
    reading: Reading


@dataclass(frozen=True, slots=True)
class Computed:
    """A result on its way from a worker. A chunk is valid until the next one is asked for."""

    result: ResultSource
    chunks: AsyncGenerator[memoryview]


Delivered: TypeAlias = Kept | Computed


class Delivery:
    """Delivers results.

    Args:
        cache: Keeps them.
        relay: Computes them.
        registry: Knows the transforms.
        settings: Of transforms.
        seen: Remembers which results were asked for.
    """

    def __init__(
        self, cache: Cache, relay: Relay, registry: Registry, settings: EtlSettings, seen: SeenRequests
    ) -> None:
        self._cache = cache
        self._relay = relay
        self._registry = registry
        self._args_bytes = settings.args_bytes
        self._seen = seen
        self.copies = SmallCopies(cache, settings.small_result_bytes)

    async def aclose(self) -> None:
        await self.copies.aclose()
        self._seen.close()
        await self._relay.aclose()

    async def recipe(self, names: str, args: str = "", *, seed: int = 0, epoch: int = 0) -> Recipe:
        """What a request names. A transform whose workers nobody knows yet is started.

        Args:
            names: Ids or names of transforms, separated by commas.
            args: For one transform its args, for several an object by their names or ids.
            seed: What their randomness depends on.
            epoch: Likewise.

        Raises:
            NotFound: One of them does not exist.
            BadRequest: They can't be a pipeline, or the args don't fit them.
            GatewayError: One of them can't be started.
        """
        stages = await resolve_pipeline(self._registry, names, args, self._args_bytes)
        return Recipe(await self._relay.identified(stages), seed, epoch)

    async def describe(self, recipe: Recipe, source: Source, asker: Asker) -> ResultSource:
        """The result by name: its `meta` holds ETag and content type. Nothing is fetched or computed.

        Raises:
            GatewayError: As `Cache.head`.
        """
        return self.result(recipe, source, await self._cache.head(source), asker)

    def result(self, recipe: Recipe, source: Source, version: ObjectMeta, asker: Asker) -> ResultSource:
        """The result on this version of the object."""
        return ResultSource(self._relay, self._cache, recipe, source, version, asker)

    @asynccontextmanager
    async def open(
        self, recipe: Recipe, source: Source, asker: Asker, *, wants_part: bool = False
    ) -> AsyncIterator[Delivered]:
        """The result, however it is to be delivered. The request counts, where the policy is `auto`.

        Raises:
            GenerationChanged: The object was overwritten meanwhile: ask again.
            GatewayError: As `Cache.open`, and `Relay.stream`.
        """
        is_kept = recipe.record.options.cache != "never"
        raw = self._cache.lookup(source)
        if raw is None and is_kept and (kept := await self._open_without_raw(recipe, source, asker)) is not None:
            async with _closing(kept):
                yield kept
            return
        raw = raw or await self._cache.open(source)
        try:
            result = self.result(recipe, source, raw.meta, asker)
            if wants_part and is_kept:
                await self._cache.prefetch(result)
            if (wants_part and is_kept) or self._is_to_be_kept(result):
                async with _closing(Kept(result, await self._cache.open(result))) as kept:
                    yield kept
                return
            async with aclosing(self._compute(result, raw)) as chunks:
                yield Computed(result, chunks)
        finally:
            raw.aclose()

    async def _open_without_raw(self, recipe: Recipe, source: Source, asker: Asker) -> Kept | None:
        """A result that is kept already: a raw object that was evicted is not fetched again only for its version."""
        result = await self.describe(recipe, source, asker)
        if (await self._cache.head(result)).size is None:
            return None
        return Kept(result, await self._cache.open(result))

    def _is_to_be_kept(self, result: ResultSource) -> bool:
        """Whether this request has it computed into the cache. Under `auto` it is remembered for the next one."""
        policy = result.recipe.record.options.cache
        return policy == "always" or (policy == "auto" and self._seen.add(result.entry_name))

    async def _compute(self, result: ResultSource, raw: Reading) -> AsyncGenerator[memoryview]:
        """A result that is not kept, straight from the worker; as `Relay.stream`, whose buffers it yields."""
        copy = self.copies.begin(wanted=result.recipe.record.options.cache == "auto")
        try:
            async with aclosing(self._relay.stream(result.request(raw))) as chunks:
                async for chunk in chunks:
                    copy.add(chunk)
                    yield chunk
            if result.may_be_kept() and (body := copy.take()) is not None:
                self.copies.keep(result, body)
        finally:
            copy.drop()


def keepable(result: ResultSource) -> ResultSource:
    """A result of which a part can be read by name, since it may be kept.

    Raises:
        BadRequest: Its policy is `never`.
    """
    if result.recipe.record.options.cache == "never":
        raise BadRequest(
            f"results of {result.recipe.record.id} are never kept, so single members of them can't be read",
            hint="register it with cache=auto or cache=always",
        )
    return result


@asynccontextmanager
async def _closing(kept: Kept) -> AsyncIterator[Kept]:
    try:
        yield kept
    finally:
        kept.reading.aclose()
