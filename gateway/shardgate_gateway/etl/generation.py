"""The generation of a transform: a digest of what its results depend on beside its package and the request.

The same code gives other bytes with another environment variable, another image or another version of a library, and
those change while its id does not. So the name and the ETag of a result hold its generation, too, and a stream is
continued only by a worker of the same one. What workers are like is known once one has said it (`wire.Hello`), the
options with which it was started among it: new options hold from the next start, and so does their generation. The
database remembers it, so that kept results are found while nothing runs.

A transform that is deleted and registered again is of another generation: nothing of before is served.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.etl.generation_name import options_digest
from shardgate_gateway.etl.patience import within

if TYPE_CHECKING:
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.runner import Runner
    from shardgate_gateway.etl.transform_record import TransformRecord


ASK_AGAIN_SECONDS = 1.0
REMEMBERED = 4096


class Identifier:
    """Finds out what the workers of a transform are like, by asking one, once.

    Where the options were changed since, it asks again: what was not running starts with the new ones.

    Args:
        runner: Knows the workers.
        registry: Remembers what they said.
        seconds: For one of them to answer.
    """

    def __init__(self, runner: Runner, registry: Registry, seconds: float) -> None:
        self._runner = runner
        self._registry = registry
        self._seconds = seconds
        self._asking: dict[str, asyncio.Task[TransformRecord]] = {}
        self._asked: dict[tuple[str, str], float] = {}
        """When workers said that they were started with other options than these, which hold from the next start."""

    async def identified(self, record: TransformRecord) -> TransformRecord:
        """The record with its environment. Starts the transform where nobody knows it yet.

        Raises:
            GatewayError: As `Runner.ensure` and `Runner.connect`.
            Busy: No worker answers in time.
        """
        if record.environment and not self._is_outdated(record):
            return record
        task = self._asking.get(record.id)
        if task is None:
            task = self._asking[record.id] = asyncio.create_task(self._ask(record))
            task.add_done_callback(lambda done: self._forget(record.id, done))
        return await asyncio.shield(task)

    def _is_outdated(self, record: TransformRecord) -> bool:
        wanted = options_digest(record.options)
        if record.environment.get("options", wanted) == wanted:
            return False
        return time.monotonic() - self._asked.get((record.id, wanted), -math.inf) > ASK_AGAIN_SECONDS

    def _forget(self, transform_id: str, done: asyncio.Task[TransformRecord]) -> None:
        del self._asking[transform_id]
        if not done.cancelled():
            done.exception()  # whoever waited has it

    async def _ask(self, record: TransformRecord) -> TransformRecord:
        job = wire.Job(request_id="", transform_id=record.id, bucket="", key="", etag="", probe=True)
        async with within(self._seconds, record.id):
            await self._runner.ensure(record)
            connection = await self._runner.connect(record, job, None)
        try:
            hello = connection.hello
        finally:
            connection.close()
        if len(self._asked) >= REMEMBERED:
            self._asked.clear()
        self._asked[record.id, options_digest(record.options)] = time.monotonic()
        return await self._registry.learn(record, environment=hello.environment, unstable=not hello.reproducible)

    async def aclose(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
