"""The result of a recipe as a source: something that has a version, and can be fetched and kept.

A result is a pure function of the object's version, the transforms and their generations, their args, seed and epoch.
So it has a name and an ETag before anything ran, and can be kept beside raw objects as just another source: HEAD,
ranges and conditions then work as for any object, and nobody computes it twice.

The ETag is strong where the same request gives the same bytes: not where a container makes them, where a sample came
out differently when it was run again, or where samples are left out rather than failing, which may be for want of time
or memory. What is made of something with a weak etag has a weak one, too. A result that misses a sample for such a
cause is never kept.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.cache.source import Freshness, Source, entry_name_in, group_name
from shardgate_gateway.errors import GenerationChanged, PreconditionFailed
from shardgate_gateway.etl.transform_request import Found, TransformRequest
from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shardgate import wire
    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.etl.recipe import Asker, Recipe
    from shardgate_gateway.etl.relay import Relay
    from shardgate_gateway.etl.transform_record import TransformRecord

ETAG_DIGITS = 32


class Named(NamedTuple):
    """What a result is called."""

    label: str
    entry_name: str
    meta: ObjectMeta


def name_results(recipe: Recipe, source: Source, version: ObjectMeta) -> list[Named]:
    """The results of all stages on one version of an object, each the input of the next."""
    named: list[Named] = []
    group, label, meta = group_name(source), source.label, version
    for record, args in ((stage.record, stage.args) for stage in recipe.stages):
        identity = (label, meta.etag_header, record.id, record.generation, args, str(recipe.seed), str(recipe.epoch))
        entry_name = entry_name_in(group, *identity)
        meta = ObjectMeta(
            key=version.key,
            size=None,
            etag=entry_name[-ETAG_DIGITS:],
            weak=meta.weak or _varies(record),
            last_modified=None,  # that of the raw object would say that new code makes nothing new
            content_type=_content_type(record.manifest),
        )
        label = f"{label} through {record.id}"
        named.append(Named(label, entry_name, meta))
    return named


class ResultSource(Source):
    """The result of a recipe on one version of one object.

    Args:
        relay: Computes it.
        cache: Holds the raw object.
        recipe: What is made.
        raw: The object.
        version: What is known of its version.
        asker: The request that wants it.
    """

    recomputed = True

    def __init__(
        self, relay: Relay, cache: Cache, recipe: Recipe, raw: Source, version: ObjectMeta, asker: Asker
    ) -> None:
        self._relay = relay
        self._cache = cache
        self._asker = asker
        self.recipe = recipe
        self.raw = raw
        self.raw_version = version
        named = name_results(recipe, raw, version)
        self.label, self.entry_name, self.meta = named[-1]
        self._input_version = named[-2].meta if len(named) > 1 else None
        self._found = Found()
        self.freshness = Freshness.immutable()

    def request(self, reading: Reading) -> TransformRequest:
        """The request to the relay that computes it from an open reading of the raw object.

        Raises:
            GenerationChanged: The reading is of another version.
        """
        if reading.meta.etag != self.raw_version.etag:
            raise GenerationChanged(f"{self.raw.label} was overwritten while it was asked for", hint="read it again")
        return TransformRequest(
            recipe=self.recipe,
            source=self.raw,
            reading=reading,
            asker=self._asker,
            version=self._input_version,
            found=self._found,
        )

    def may_be_kept(self) -> bool:
        """Not where something is missing, nor where nobody could know: a container reads over what a stage tells."""
        is_container = self.recipe.record.manifest.container is not None
        is_unknown = is_container and any(stage.record.manifest.on_error != "fail" for stage in self.recipe.before)
        return self._found.may_be_kept and not is_unknown

    @property
    def gaps(self) -> int:
        """Samples that are missing for a cause that may pass, as far as they were computed through this object."""
        return self._found.gaps

    async def open(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        prefix: bytes | None = None,
    ) -> ObjectStream:
        """Compute it from byte `start` on.

        Raises:
            TransformError: The bytes before `start` have another digest than `prefix`.
            GenerationChanged: The raw object has another version by now.
            GatewayError: As `Cache.open` and `Relay.stream`.
        """
        if if_match not in {None, self.meta.etag}:
            raise PreconditionFailed(f"{self.label} has the etag {self.meta.etag}, not {if_match}")
        reading = await self._cache.open(self.raw)
        try:
            request = self.request(reading)
        except BaseException:
            reading.aclose()
            raise
        return ObjectStream(self.meta, start, end, self._chunks(request, start, end, prefix or b""))

    async def head(self) -> ObjectMeta:
        return self.meta

    async def _chunks(
        self, request: TransformRequest, start: int, end: int | None, prefix: bytes
    ) -> AsyncIterator[bytes]:
        """Copies, since the memory of a worker's chunk is its own again when the next one is asked for."""
        try:
            async with aclosing(self._relay.stream(request, skip=start, prefix=prefix)) as chunks:
                async for chunk in chunks:
                    part = bytes(chunk if end is None else chunk[: end - start])
                    start += len(part)
                    if part:
                        yield part
                    if start == end:
                        return
        finally:
            request.reading.aclose()


def _varies(record: TransformRecord) -> bool:
    """Whether another run may give other bytes."""
    return record.manifest.container is not None or record.manifest.on_error != "fail" or record.is_unstable


def _content_type(manifest: wire.Manifest) -> str:
    if manifest.container is not None:
        return manifest.container.content_type
    return "application/x-tar" if manifest.kind == "sample" else "application/octet-stream"
