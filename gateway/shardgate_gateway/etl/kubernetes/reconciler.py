"""What has to be done now and then, by one gateway at a time: the holder of the Lease.

- **Orphans** go: objects of transforms that nobody has registered any more, because a gateway died between forgetting a
  transform and deleting its objects. What is younger than a minute stays, for it may be about to be registered. (When
  the whole installation is deleted, Kubernetes deletes what it owns: see `kubernetes.owner`.)
- **Upgrades** roll: a Deployment that this gateway would write differently, with another image say, is written anew,
  and Kubernetes replaces its pods one by one, never with fewer than before. What the new pods need beside their image
  is installed first, while the old ones go on.
- **Tokens** are renewed, at half of their life, for pods that may start at any time.

An error costs that transform its turn, not the others theirs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shardgate_gateway.errors import GatewayError
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.kube.kinds import annotations_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardgate_gateway.etl.kubernetes.environment import Environment, EnvironmentBuilder
    from shardgate_gateway.etl.kubernetes.objects import Objects
    from shardgate_gateway.etl.kubernetes.policy import Policy
    from shardgate_gateway.etl.kubernetes.view import ClusterView
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.kube.kinds import Object

ROUND_SECONDS = 15.0
YOUNG_SECONDS = 60.0
AGAIN_SECONDS = 600.0
"""After which an environment that could not be made is tried once more."""

log = logging.getLogger(__name__)


class Reconciler:
    """Cleans and renews, for as long as it is let run.

    Args:
        view: What there is.
        objects: Writes it.
        policy: Knows what pods need.
        environments: Makes what they need.
        records: All registered transforms.
        token_seconds: How long a token is good for.
    """

    def __init__(
        self,
        view: ClusterView,
        objects: Objects,
        policy: Policy,
        environments: EnvironmentBuilder,
        records: Callable[[], Awaitable[list[TransformRecord]]],
        token_seconds: float,
    ) -> None:
        self._view = view
        self._objects = objects
        self._policy = policy
        self._environments = environments
        self._records = records
        self._token_seconds = token_seconds
        self._renewed: dict[str, float] = {}
        self._building: dict[str, tuple[asyncio.Task[None], float]] = {}

    async def run(self) -> None:
        """Tend, until cancelled. A new holder of the Lease does not know when tokens were renewed, and renews all."""
        self._renewed.clear()
        try:
            while True:
                try:
                    await self.tend()
                except GatewayError as error:
                    log.warning("cleaning has to wait: %s", error.message)
                await asyncio.sleep(ROUND_SECONDS)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Leave what is being built to others."""
        building = [task for task, _ in self._building.values()]
        self._building.clear()
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)

    async def tend(self, *, young_seconds: float = YOUNG_SECONDS) -> None:
        """Look at every Deployment once."""
        seen = list(
            self._view.deployments.items.values()
        )  # before the records: what is registered meanwhile is not in it
        records = {record.id: record for record in await self._records()}
        for deployment in seen:
            id = annotations_of(deployment).get(names.ANNOTATION_ID, "")  # noqa: A001
            try:
                if id in records:
                    await self._keep_up(deployment, records[id])
                elif _age(deployment) >= young_seconds:
                    log.info("removing %s: no transform %r is registered", deployment["metadata"]["name"], id)
                    await self._objects.delete(deployment["metadata"]["name"])
            except GatewayError as error:
                log.warning("%s could not be tended: %s", deployment["metadata"]["name"], error.message)
            await asyncio.sleep(0)  # what all together take, readers would have to wait

    async def _keep_up(self, deployment: Object, record: TransformRecord) -> None:
        if names.ANNOTATION_INSTALLING in annotations_of(deployment):
            return  # somebody is starting it
        wanted = (await self._objects.manifests()).deployment(record)
        if _spec(wanted) != _spec(deployment):
            if deployment["spec"]["replicas"] and not await self._is_prepared(record):
                return
            log.info("%s is written anew: its gateway or its options changed", deployment["metadata"]["name"])
            await self._objects.apply(record)
            self._renewed[record.id] = time.monotonic()
        elif time.monotonic() - self._renewed.get(record.id, float("-inf")) > self._token_seconds / 2:
            await self._objects.renew_token(record)
            self._renewed[record.id] = time.monotonic()

    async def _is_prepared(self, record: TransformRecord) -> bool:
        """Whether new pods would find all they need; if not, it is made until some later turn."""
        environment = self._policy.environment(record.manifest, record.options)
        if environment is None or await self._environments.has(environment):
            return True
        now = time.monotonic()
        task, began = self._building.get(environment.digest, (None, 0.0))
        if task is None or (task.done() and now - began > AGAIN_SECONDS):
            task = asyncio.create_task(self._build(environment, record.id))
            self._building[environment.digest] = task, now
        return False

    async def _build(self, environment: Environment, transform_id: str) -> None:
        try:
            await self._environments.ensure(environment)
        except GatewayError as error:
            log.warning("pods of %s stay as they are: %s", transform_id, error.message)


def _spec(deployment: Object) -> tuple[str | None, str | None]:
    notes = annotations_of(deployment)
    return notes.get(names.ANNOTATION_SPEC), notes.get(names.ANNOTATION_SCALING)


def _age(deployment: Object) -> float:
    created = datetime.fromisoformat(deployment["metadata"]["creationTimestamp"])
    return (datetime.now(UTC) - created).total_seconds()
