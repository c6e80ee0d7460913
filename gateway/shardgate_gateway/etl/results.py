"""What the result of a transform is called, and whether it is kept.

A result is a pure function of the object's version, the transform and its generation, its arguments, seed and epoch. So
it has a name and an ETag before anything ran, and can be kept beside raw objects as just another source: HEAD, ranges
and conditions then work as for any object, and nobody computes it twice.

The ETag is strong where the same request gives the same bytes: not where a container makes them, where a sample came
out differently when it was run again, or where samples are left out rather than failing, which may be for want of time
or memory. A result that misses a sample for such a cause is never kept.

Keeping costs as much as computing where the output is large, so it is a policy of the transform:

    never    computed for every reader
    always   computed into the cache, and served from there even while it is computed
    auto     the first reader gets it straight from the worker; if it turns out small it is kept from memory. Who asks
             for the same result again has it computed into the cache, and everyone after that gets it from there.

What the first reader pays under `auto` is a copy of the first megabytes in memory; all copies together are bounded.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardgate_gateway.cache.source import Freshness, Source, entry_name_in, group_name
from shardgate_gateway.errors import GatewayError, GenerationChanged, PreconditionFailed
from shardgate_gateway.etl.pipeline import Stage, pipeline_id
from shardgate_gateway.etl.transform_request import Found, TransformRequest
from shardgate_gateway.stores.base import ObjectMeta, ObjectStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from shardgate import wire
    from shardgate_gateway.cache.cache import Cache
    from shardgate_gateway.cache.reader import Reading
    from shardgate_gateway.etl.asked import Asked
    from shardgate_gateway.etl.relay import Relay
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.settings import EtlSettings

ETAG_DIGITS = 32
COPIES = 8
"""How many results of the largest small size may be held in memory at once, per process."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a reader asks a transform: its arguments, and what its randomness depends on."""

    args: str = ""
    seed: int = 0
    epoch: int = 0


class ResultSource(Source):
    """The result of one transform on one version of one object.

    Args:
        relay: Computes it.
        cache: Holds the raw object.
        record: The transform.
        source: The raw object, or the result of the stage before.
        version: What is known of the version of the source that it is the result of.
        query: The rest of its identity.
        request_id: Of the request that wants it, for logs.
        stages: Of the pipeline that it belongs to.

    What is made of a result with a weak etag has a weak one, too.
    """

    recomputed = True

    def __init__(
        self,
        relay: Relay,
        cache: Cache,
        record: TransformRecord,
        source: Source,
        version: ObjectMeta,
        query: Query,
        request_id: str,
        *,
        stages: int,
    ) -> None:
        self._relay = relay
        self._cache = cache
        self.record = record
        before = source if isinstance(source, ResultSource) else None
        self.raw: Source = before.raw if before else source
        self.raw_version: ObjectMeta = before.raw_version if before else version
        self.chain: tuple[Stage, ...] = (*(before.chain if before else ()), Stage(record, query.args))
        self.version = version
        self._stages = stages
        self.query = query
        self.request_id = request_id
        asked = (query.args, str(query.seed), str(query.epoch))
        identity = (source.label, version.etag_header, record.id, record.generation, *asked)
        self.entry_name = entry_name_in(group_name(self.raw), *identity)
        self._found = Found()
        self.label = f"{source.label} through {record.id}"
        self.freshness = Freshness.immutable()
        self.meta = ObjectMeta(
            key=version.key,
            size=None,
            etag=self.entry_name[-ETAG_DIGITS:],
            weak=version.weak or _varies(record),
            last_modified=None,  # that of the raw object would say that new code makes nothing new
            content_type=_content_type(record.manifest),
        )

    @property
    def id(self) -> str:
        """Id of the transform, or of the pipeline."""
        return pipeline_id([stage.record for stage in self.chain])

    def request(self, reading: Reading) -> TransformRequest:
        """The request to the relay that computes it from an open reading of the raw object."""
        if reading.meta.etag != self.raw_version.etag:
            raise GenerationChanged(f"{self.raw.label} was overwritten while it was asked for", hint="read it again")
        query = self.query
        return TransformRequest(
            record=self.record,
            source=self.raw,
            reading=reading,
            args=query.args,
            seed=query.seed,
            epoch=query.epoch,
            request_id=self.request_id,
            before=self.chain[:-1],
            version=self.version if len(self.chain) > 1 else None,
            stages=self._stages,
            found=self._found,
        )

    def may_be_kept(self) -> bool:
        """Not where something is missing, nor where nobody could know: a container reads over what a stage tells."""
        is_container = self.record.manifest.container is not None
        is_unknown = is_container and any(stage.record.manifest.on_error != "fail" for stage in self.chain[:-1])
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


class Results:
    """Decides what is kept.

    A GET goes:

        result = results.source(pipeline, source, version, query, request_id=...)   # etag and type are known now
        if results.kept(result): reading = await cache.open(result)               # as any object
        else: chunks = results.stream(result, await cache.open(source))           # straight from a worker

    Args:
        cache: Keeps it.
        relay: Computes it.
        settings: `etl.small_result_bytes` is what counts as small.
        asked: Remembers what was asked for.
    """

    def __init__(self, cache: Cache, relay: Relay, settings: EtlSettings, asked: Asked) -> None:
        self._cache = cache
        self._relay = relay
        self._small = settings.small_result_bytes
        self._asked = asked
        self._held = 0
        self._keeping: set[asyncio.Task[None]] = set()

    async def identified(self, pipeline: Sequence[Stage]) -> tuple[Stage, ...]:
        """These stages as their results are named by; starts what never ran. Raises as `Runner.ensure`."""
        return await self._relay.identified(pipeline)

    def source(
        self,
        pipeline: Sequence[Stage],
        source: Source,
        version: ObjectMeta,
        query: Query,
        *,
        request_id: str,
        stages: int = 0,
    ) -> ResultSource:
        """The result, by name: its `meta` holds ETag and content type; nothing runs.

        Args:
            pipeline: One transform, or several with their args, in the order in which they are applied.
            source: The raw object.
            version: What is known of its version.
            query: Seed and epoch, for all of them.
            request_id: Of the request that wants it.
            stages: Of the pipeline of which this one is the beginning, where a worker of the next stage reads it.
        """
        made: ResultSource | None = None
        for stage in pipeline:
            share = replace(query, args=stage.args)
            before, known = (source, version) if made is None else (made, made.meta)
            made = ResultSource(
                self._relay,
                self._cache,
                stage.record,
                before,
                known,
                share,
                request_id,
                stages=stages or len(pipeline),
            )
        assert made is not None
        return made

    def kept(self, result: ResultSource) -> bool:
        """Whether a reader of this result is to get it through the cache. Call it once per GET: `auto` counts."""
        policy = result.record.options.cache
        return policy == "always" or (policy == "auto" and self._asked.add(result.entry_name))

    async def stream(self, result: ResultSource, reading: Reading) -> AsyncGenerator[memoryview]:
        """A result that is not kept, straight from the worker; as `Relay.stream`, whose buffers it yields.

        Args:
            result: Of `source`.
            reading: Of its raw object, open until the stream is closed.
        """
        copy = _Copy(self, self._small if result.record.options.cache == "auto" else 0)
        try:
            async with aclosing(self._relay.stream(result.request(reading))) as chunks:
                async for chunk in chunks:
                    copy.add(chunk)
                    yield chunk
            if result.may_be_kept() and (body := copy.take()) is not None:
                self._keep(result, body)
        finally:
            copy.drop()

    async def aclose(self) -> None:
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self._asked.close()
        await self._relay.aclose()

    def reserve(self, count: int) -> bool:
        """Take `count` bytes of what all copies may hold, if there are so many left."""
        if self._held + count > COPIES * self._small:
            return False
        self._held += count
        return True

    def _keep(self, result: ResultSource, body: bytes) -> None:
        task = asyncio.create_task(self._store(_Computed(result, body)))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _store(self, computed: _Computed) -> None:
        try:
            await self._cache.prefetch(computed)
        except GatewayError as error:
            log.warning("%s is not kept: %s", computed.label, error)
        finally:
            self.reserve(-len(computed))


def _varies(record: TransformRecord) -> bool:
    """Whether another run may give other bytes."""
    return record.manifest.container is not None or record.manifest.on_error != "fail" or record.is_unstable


def _content_type(manifest: wire.Manifest) -> str:
    if manifest.container is not None:
        return manifest.container.content_type
    return "application/x-tar" if manifest.kind == "sample" else "application/octet-stream"


class _Computed(Source):
    """A result that is in memory, on its way into the cache."""

    def __init__(self, result: ResultSource, body: bytes) -> None:
        self.entry_name = result.entry_name
        self.label = result.label
        self.freshness = result.freshness
        self._body = body
        self._meta = ObjectMeta(
            key=result.meta.key,
            size=len(body),
            etag=result.meta.etag,
            weak=result.meta.weak,
            last_modified=result.meta.last_modified,
            content_type=result.meta.content_type,
        )

    def __len__(self) -> int:
        return len(self._body)

    async def open(
        self,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        prefix: bytes | None = None,  # noqa: ARG002
    ) -> ObjectStream:
        if if_match not in {None, self._meta.etag}:
            raise PreconditionFailed(f"{self.label} has the etag {self._meta.etag}, not {if_match}")
        end = len(self._body) if end is None else min(end, len(self._body))
        return ObjectStream(self._meta, start, end, self._chunks(start, end))

    async def head(self) -> ObjectMeta:
        return self._meta

    async def _chunks(self, start: int, end: int) -> AsyncIterator[memoryview]:
        if start < end:
            yield memoryview(self._body)[start:end]


class _Copy:
    """Collects a result as long as it is small."""

    def __init__(self, results: Results, limit: int) -> None:
        self._results = results
        self._limit = limit
        self._parts: list[bytes] | None = [] if limit else None
        self._size = 0

    def add(self, chunk: memoryview) -> None:
        if self._parts is None:
            return
        if self._size + len(chunk) > self._limit or not self._results.reserve(len(chunk)):
            self.drop()
            return
        self._size += len(chunk)
        self._parts.append(bytes(chunk))

    def take(self) -> bytes | None:
        """All of it, whose reservation now belongs to the caller; None where it was not small."""
        if self._parts is None:
            return None
        body, self._parts, self._size = b"".join(self._parts), None, 0
        return body

    def drop(self) -> None:
        self._parts = None
        self._results.reserve(-self._size)
        self._size = 0
