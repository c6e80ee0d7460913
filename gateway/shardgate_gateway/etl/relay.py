"""From a worker to the reader: one transformed shard as one unbroken stream of bytes.

The stream outlives its workers. What was delivered is counted (`progress.py`); when a worker is lost, another begins at
the sample that was under way, what the reader has of it is compared and dropped, and the reader sees a pause. That
works because a transform's randomness is a function of the request and the sample index alone. What comes out
differently raises: the stream ends normally only after a worker said END, and only with bytes that fit together.

**A reader that leaves** closes the generator, and that closes the connection; the worker notices within a sample.

**A reader that pauses** gives its worker to others after `release_seconds` on one chunk (`pause.py`); the chunk stays
valid (see `connection.py`), and when the reader goes on, so does another worker.

**A worker of another transform as reader.** The result of an earlier stage of a pipeline goes to a worker, which is
held meanwhile; `hold.py` says how long such a request waits, and who begins again when it was refused.

**Blame.** A job's id is unlike any other's, even if two readers chose the same request id: deaths are reported by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from shardgate import wire
from shardgate.urls import ObjectName, object_path
from shardgate_gateway import metrics
from shardgate_gateway.auth.scopes import APPLY, READ, exact
from shardgate_gateway.cache.reader import FileSpan
from shardgate_gateway.errors import (
    Busy,
    GatewayError,
    LocalStorageError,
    NotFound,
    TransformChanged,
    UpstreamUnavailable,
    WorkerLost,
)
from shardgate_gateway.etl.attempt import Attempt, StageBusy
from shardgate_gateway.etl.generation import Identifier
from shardgate_gateway.etl.generation_name import difference
from shardgate_gateway.etl.hold import Hold, Tries
from shardgate_gateway.etl.patience import within
from shardgate_gateway.etl.pause import Budget, PatientReceiver
from shardgate_gateway.etl.pipeline import name_stage, pipeline_id
from shardgate_gateway.etl.progress import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator

    from shardgate_gateway.etl.pipeline import Stage
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.runner import Runner, WorkerConnection
    from shardgate_gateway.etl.stats import Outcome
    from shardgate_gateway.etl.transform_request import TransformRequest
    from shardgate_gateway.settings import EtlSettings

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.05
"""Before the third attempt without progress; doubles, with jitter. The second follows at once."""
MAX_BACKOFF_SECONDS = 2.0


class Relay:
    """Streams results of transforms.

    Args:
        runner: Where workers run.
        registry: Takes the stats.
        settings: Limits and times.
        endpoint: URL of this gateway as workers reach it, for shards that they can't read from a local file.
        sign: Makes a bearer token with these scopes, for workers.
        seal: Makes a note out of a text, which is good for the path and query that it is about.
    """

    def __init__(
        self,
        runner: Runner,
        registry: Registry,
        settings: EtlSettings,
        *,
        endpoint: str,
        sign: Callable[[list[str]], str],
        seal: Callable[[str, str], str],
    ) -> None:
        self._runner = runner
        self._registry = registry
        self._settings = settings
        self._endpoint = endpoint
        self._sign = sign
        self._seal = seal
        self._budget = Budget()
        self._refused: WeakValueDictionary[frozenset[str], Tries] = WeakValueDictionary()
        self._identifier = Identifier(runner, registry, settings.queue_seconds)

    async def identified(self, stages: Iterable[Stage]) -> tuple[Stage, ...]:
        """These stages with the environments of their workers, without which their results have no names.

        Raises:
            GatewayError: One of them can't be started.
        """
        stages = tuple(stages)
        found = []
        for number, stage in enumerate(stages, 1):
            try:
                found.append(replace(stage, record=await self._identifier.identified(stage.record)))
            except GatewayError as error:
                name_stage(error, number, len(stages), stage.record.id)
                raise
        return tuple(found)

    async def aclose(self) -> None:
        await self._identifier.aclose()

    async def stream(
        self, request: TransformRequest, *, skip: int = 0, prefix: bytes = b""
    ) -> AsyncGenerator[memoryview]:
        """The result from byte `skip` on. A yielded buffer is valid until the generator is resumed.

        Args:
            request: What to compute.
            skip: Bytes of the beginning that are left out.
            prefix: Their checksum (xxh3_128), if this result has to continue them; b"" if nobody has them.

        Raises:
            SampleError: The function failed on a sample, and its policy is `fail`.
            TransformError: A sample came out differently when it had to be made again.
            TransformStartError: The runtime can't start.
            WorkerLost: Too many workers died without progress.
            Busy: Too many requests wait for a worker.
            UpstreamError: The raw object can't be read.
        """
        hold = Hold(self._settings.queue_seconds, request.record.id)
        async with hold.turn, contextlib.aclosing(self._tries(request, hold, skip, prefix)) as chunks:
            async for chunk in chunks:
                await hold.has_something()
                yield chunk

    async def _tries(
        self, request: TransformRequest, hold: Hold, skip: int, prefix: bytes
    ) -> AsyncGenerator[memoryview]:
        job = self._job(request)
        progress = Progress(
            self._settings.attempts,
            label=request.source.label,
            anchored=request.anchored,
            delivered=skip,
            prefix=prefix,
        )
        patience = self._settings.release_seconds
        outcome: Outcome = "released"
        while outcome != "completed":
            attempt = Attempt(progress.sample, progress.delivered, patience, has_stage_before=bool(request.before))
            hold.try_begins(begun=progress.delivered > skip)
            try:
                await self._take_turn(request, hold)
                connection = await self._connect(request, progress.resume(self._entitled(request, job, hold)), hold)
                await self._check_worker(request, connection, begun=progress.delivered > 0)
                async with contextlib.aclosing(
                    self._work(connection, progress, attempt, request.source.label)
                ) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (Busy, WorkerLost, UpstreamUnavailable) as error:
                attempt.outcome = "failed"
                await self._try_again(request, progress, hold, error)
                attempt.outcome = "released" if isinstance(error, Busy) else "lost"
            except GatewayError as error:
                attempt.outcome = "failed"
                request.blame(error)
                raise
            else:
                if progress.anchored and attempt.outcome == "released":
                    patience *= 2  # everything is made again: a reader that pauses often shall cost that a few times
            finally:
                outcome = attempt.outcome
                await self._account(request, attempt.stats(progress), outcome)

    async def _take_turn(self, request: TransformRequest, hold: Hold) -> None:
        """Wait for the turn to try, where requests of the same stages were refused."""
        if not request.before or hold.is_awaited or hold.has_turn:
            return
        records = [request.record, *(stage.record for stage in request.before)]
        key = frozenset(record.id for record in records)
        line = self._refused.get(key)
        if line is None:
            if not hold.place.refusals:
                return
            line = self._refused[key] = Tries()
        with contextlib.ExitStack() as waiting:
            for record in records:
                waiting.enter_context(self._runner.waiting(record))
            async with within(hold.start_seconds, request.record.id):
                places = line.places(min(map(self._runner.workers, records)))
                await hold.turn.enter_async_context(line.turn(places))
        hold.has_turn, hold.tries = True, line

    async def _account(self, request: TransformRequest, stats: wire.Stats, outcome: Outcome) -> None:
        record = request.record
        request.found.add(stats)
        await self._registry.add_stats(record.id, stats, outcome)
        try:
            await self._registry.learn(record, random=stats.samples_random > 0, unstable=stats.samples_unstable > 0)
        except (NotFound, LocalStorageError) as error:
            log.warning("what a worker found out about %s is forgotten: %s", record.id, error)

    async def _connect(self, request: TransformRequest, job: wire.Job, hold: Hold) -> WorkerConnection:
        began = time.monotonic()
        try:
            async with within(hold.start_seconds, request.record.id):
                return await self._wait_for_worker(request, job, hold)
        finally:
            waited = time.monotonic() - began
            metrics.ETL_QUEUE.labels(metrics.transform_label(request.record.id)).observe(waited)

    async def _wait_for_worker(self, request: TransformRequest, job: wire.Job, hold: Hold) -> WorkerConnection:
        await self._start(request)
        if request.before:
            return await self._hand_over(request, job, hold, None)
        shard = await request.reading.verified_file()
        with contextlib.nullcontext(shard) if shard else _in_memory(request.reading.content) as file:
            return await self._hand_over(request, job, hold, file)

    async def _check_worker(self, request: TransformRequest, connection: WorkerConnection, *, begun: bool) -> None:
        """Give up a worker that does not make the result that was asked for, or that another one began.

        Raises:
            TransformChanged: Nothing was sent yet: the result has another name by now.
            WorkerLost: Another worker may be of the right environment.
        """
        record, hello, found = request.record, connection.hello, request.found
        found.environment = found.environment or record.environment or hello.environment
        is_surprise = not hello.reproducible and not record.is_unstable and bool(record.environment)
        if hello.environment == found.environment and not is_surprise:
            return
        connection.close()
        await self._registry.learn(record, environment=hello.environment, unstable=not hello.reproducible)
        change = difference(found.environment, hello.environment) or "a sample came out differently when it ran again"
        if not begun:
            raise TransformChanged(f"{record.id} is not what it was: {change}", hint="read it again", retry_after=0.0)
        raise WorkerLost(
            f"the worker is of another environment than the one that began the result: {change}",
            hint="read it again when all workers are of one environment",
        )

    async def _start(self, request: TransformRequest) -> None:
        """Have the runtimes of all stages ready."""
        if not request.before:
            await self._runner.ensure(request.record)
            return
        records = [*(stage.record for stage in request.before), request.record]
        started = await asyncio.gather(*map(self._runner.ensure, records), return_exceptions=True)
        for number, (record, error) in enumerate(zip(records, started, strict=True), 1):
            if isinstance(error, GatewayError):
                name_stage(error, number, request.stages, record.id)
            if isinstance(error, BaseException):
                raise error

    async def _hand_over(
        self, request: TransformRequest, job: wire.Job, hold: Hold, file: FileSpan | None
    ) -> WorkerConnection:
        try:
            async with asyncio.timeout(hold.line_seconds):
                return await self._runner.connect(request.record, job, file)
        except TimeoutError:
            raise Busy(f"no worker of {request.record.id} is free", hint="add workers", retry_after=1.0) from None

    async def _work(
        self, connection: WorkerConnection, progress: Progress, attempt: Attempt, label: str
    ) -> AsyncGenerator[memoryview]:
        """What one worker gives, until it says END, or is given up for a reader that pauses or for new poison."""
        receiver = PatientReceiver(connection, self._budget, attempt.patience, anchored=progress.anchored)
        try:
            if progress.explain(connection.hello.death):
                attempt.outcome = "released"
            while attempt.running:
                received = await receiver.receive()
                if received is None:
                    attempt.outcome = "released"
                elif isinstance(received, wire.End):
                    progress.end(received.total)
                    attempt.end("completed", received.stats)
                elif isinstance(received, wire.Failure):
                    attempt.fail(received, label)
                else:
                    data = progress.fresh(received.data, received.checkpoint)
                    if data:
                        receiver.delivering()
                        yield data
                        receiver.delivered()
                    progress.advance(len(data), received.checkpoint)
                    attempt.gaps |= received.checkpoint.gap
        finally:
            await receiver.aclose()
            connection.close()

    async def _try_again(self, request: TransformRequest, progress: Progress, hold: Hold, error: GatewayError) -> None:
        """Return when it is time for another worker; raise `error` if there shall be none."""
        if isinstance(error, StageBusy):
            await hold.refused(error)
            return
        if isinstance(error, Busy):
            if hold.is_awaited or not hold.begun:
                raise hold.marked(error)
            await asyncio.sleep(error.retry_after or MAX_BACKOFF_SECONDS)  # a paused reader is not cut for that
            return
        progress.lost()
        if progress.exhausted:
            raise request.blame(_given_up(request, progress, error)) from error
        await _back_off(progress.losses)

    def _entitled(self, request: TransformRequest, job: wire.Job, hold: Hold) -> wire.Job:
        """With what the worker shows for its input, anew for each try: tokens are good for minutes."""
        place = self._seal(hold.input_place().written(), _input_path(request)) if request.before else ""
        return replace(job, token=self._sign([_scope(request)]), place=place)

    def _job(self, request: TransformRequest) -> wire.Job:
        bucket, key = ObjectName.parse(request.source.label)
        return wire.Job(
            request_id=f"{request.asker.request_id}-{secrets.token_hex(4)}",
            transform_id=request.record.id,
            bucket=str(bucket),
            key=key,
            etag=request.input_version.etag,
            match=request.input_version.etag_header,
            url=self._endpoint + _input_path(request),
            token="",
            seed=request.recipe.seed,
            epoch=request.recipe.epoch,
            args=request.recipe.args,
            ring=True,
            once=request.reads_once,
            stages=request.stages if request.before else 0,
        )


def _input_path(request: TransformRequest) -> str:
    """Path and query of what the worker reads."""
    return object_path(*ObjectName.parse(request.source.label), request.recipe.input_query())


def _scope(request: TransformRequest) -> str:
    """For exactly the input of the job: the raw object, or the result of the stages before."""
    label = exact(request.source.label)
    if not request.before:
        return f"{READ}:{label}"
    return f"{APPLY}:{pipeline_id([stage.record for stage in request.before])}@{label}"


@contextlib.contextmanager
def _in_memory(content: bytes | None) -> Iterator[FileSpan | None]:
    """A small object that the cache keeps in memory, as a file for a worker of this machine."""
    if content is None:
        yield None
        return
    with open(os.memfd_create("shardgate-object"), "wb") as file:  # noqa: PTH123
        file.write(content)
        file.flush()
        yield FileSpan(file.fileno(), 0, len(content))


def _given_up(request: TransformRequest, progress: Progress, error: GatewayError) -> GatewayError:
    if isinstance(error, UpstreamUnavailable):
        return error
    many = progress.losses >= progress.attempts
    count = f"{progress.losses if many else progress.all_losses} workers of {request.record.id}"
    lost = "were lost one after the other at" if many else "were lost in all, the last one at"
    return WorkerLost(
        f"{request.source.label}: {count} {lost} sample {progress.sample}; the last one: {error.message}",
        hint=error.hint or f"`shardgate etl logs {request.record.id}` shows what they wrote last",
    )


async def _back_off(losses: int) -> None:
    if losses > 1:
        delay = min(BACKOFF_SECONDS * 2.0 ** (losses - 2), MAX_BACKOFF_SECONDS)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
