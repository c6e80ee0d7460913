"""Containers in embedded mode: their command runs as a process of this machine, without any image.

`shardgate_runtime.command` hosts it and is a runtime like any other, so starting, finding, stopping and logs are the
local runner's. What differs is the way to it: HTTP to the port that its status names. A program takes as many requests
as it likes; we send it `workers` at a time from each gateway process, and the others wait here.

Whoever may register a function may register a command: either runs whatever code it likes, as a process with the
gateway's rights and without its environment. So there is no further switch.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from shardgate_gateway.errors import PackageInvalid
from shardgate_gateway.etl.container.client import ContainerClient
from shardgate_gateway.etl.generation_name import options_digest

if TYPE_CHECKING:
    from shardgate import wire
    from shardgate_gateway.cache.reader import FileSpan
    from shardgate_gateway.etl.container.connection import ContainerConnection
    from shardgate_gateway.etl.local.runtime import LocalRuntime
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.settings import EtlSettings

MODULE = "shardgate_runtime.command"


class LocalContainers:
    """The ways to containers of this machine."""

    def __init__(self, settings: EtlSettings) -> None:
        self._client = ContainerClient(settings)
        self._places: dict[tuple[str, int], asyncio.Semaphore] = {}

    async def connect(
        self,
        runtime: LocalRuntime,
        record: TransformRecord,
        job: wire.Job,
        input: FileSpan | None,  # noqa: A002 (as in Runner.connect)
    ) -> ContainerConnection:
        """A place at a container that is ready.

        Raises:
            OSError: It is about to end, or has ended; `ensure` will look again.
        """
        places = self._places.setdefault((record.id, runtime.workers), asyncio.Semaphore(runtime.workers))
        await places.acquire()
        try:
            use = runtime.folder.use()
        except BaseException:
            places.release()
            raise

        def done(lost: bool) -> None:
            os.close(use)
            places.release()
            if lost:
                runtime.doubt()

        try:
            environment = {"options": options_digest(record.options)}
            return self._client.connection(runtime.folder.address(), record, job, input, done, environment)
        except BaseException:
            done(True)
            raise

    async def aclose(self) -> None:
        await self._client.aclose()


def check_local(manifest: wire.Manifest) -> None:
    """Refuse a container that needs more than a process.

    Raises:
        PackageInvalid: It has no command of its own.
    """
    if manifest.container is None or not manifest.container.command:
        raise PackageInvalid(
            f"transform {manifest.name!r} has no command, and a gateway without a cluster runs no images",
            hint="pass command=[...], a program of the gateway's machine, or use a gateway with etl.runner=kubernetes",
        )
