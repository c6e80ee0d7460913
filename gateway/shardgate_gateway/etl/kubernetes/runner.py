"""Workers as pods: one Deployment per transform, found by watching, reached by address.

Every gateway process does all of this by itself; nothing is agreed upon but what the API server holds. A start is a
loop that looks at what the watches have, does the one next step (make it, wake it, give up) and waits for a change. So
it does not matter who did the last step, or how often: ten gateways that start one transform at once make one
Deployment, and all see it become ready or fail with the same words.

A start that can't succeed is *parked*: scaled to nothing, with its words kept at the Deployment, so that nothing
crashes in a loop for ever and everybody can read why. The next request after a moment tries again.

What can go wrong: the API server is away. Then what is ready stays ready: jobs go to the pods that were seen last, and
only starting, stopping and scaling wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from shardgate_gateway.errors import (
    Conflict,
    KubernetesError,
    KubernetesUnavailable,
    TransformStartError,
    WorkerLost,
)
from shardgate_gateway.etl.container.client import ContainerClient
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.connect import connect, open_job
from shardgate_gateway.etl.kubernetes.dispatch import NoPods
from shardgate_gateway.etl.kubernetes.environment import EnvironmentBuilder
from shardgate_gateway.etl.kubernetes.fleet import Fleet
from shardgate_gateway.etl.kubernetes.lease import Lease
from shardgate_gateway.etl.kubernetes.logs import PodLogs
from shardgate_gateway.etl.kubernetes.manifests import options_digest
from shardgate_gateway.etl.kubernetes.objects import Objects
from shardgate_gateway.etl.kubernetes.policy import Policy
from shardgate_gateway.etl.kubernetes.reconciler import Reconciler
from shardgate_gateway.etl.kubernetes.routing import Here, ready_endpoints
from shardgate_gateway.etl.kubernetes.scale import Scaler
from shardgate_gateway.etl.kubernetes.state import Failure, Verdict, judge
from shardgate_gateway.etl.kubernetes.view import open_view
from shardgate_gateway.etl.runner import Runner, RunnerStatus, WorkerConnection
from shardgate_gateway.kube.client import open_api
from shardgate_gateway.kube.kinds import ENDPOINT_SLICE, annotations_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager

    from shardgate import wire
    from shardgate_gateway.auth.tokens import Tokens
    from shardgate_gateway.cache.reader import FileSpan
    from shardgate_gateway.etl.environments import Environments
    from shardgate_gateway.etl.kubernetes.demand import Demands
    from shardgate_gateway.etl.kubernetes.dispatch import Place
    from shardgate_gateway.etl.kubernetes.view import ClusterView
    from shardgate_gateway.etl.options import TransformOptions
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object
    from shardgate_gateway.settings import Settings

LOOK_SECONDS = 1.0
"""Patience runs out without anything changing."""
ZONE_SECONDS = 30.0
"""Between two looks for an endpoint on this node, which tells its zone."""
SYNC_SECONDS = 10.0
"""For the first answer of the API server."""
FAILURE_SECONDS = 5.0
"""How long a failed start answers for others."""
IMAGE_SECONDS = 5.0
"""For the watch of pods to be as far as that of their addresses."""
STALL_GRACE_SECONDS = 5.0
"""As in the local runner: the runtime's own clock is the finer one."""


class KubernetesRunner(Runner):
    """Use `open_runner`."""

    def __init__(
        self,
        settings: Settings,
        view: ClusterView,
        fleet: Fleet,
        objects: Objects,
        environments: EnvironmentBuilder,
        policy: Policy,
        logs: PodLogs,
    ) -> None:
        self._settings = settings
        self._view = view
        self._fleet = fleet
        self._objects = objects
        self._environments = environments
        self._policy = policy
        self._logs = logs
        self._containers = ContainerClient(settings.etl)
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: dict[str, Failure] = {}

    def check(self, manifest: wire.Manifest, options: TransformOptions) -> None:
        self._policy.check(manifest, options)

    async def ensure(self, record: TransformRecord) -> None:
        if self._stopped(record.id):
            raise _was_stopped(record.id)
        if not self._ready(record.id):
            with self._fleet.dispatcher(record.id).waiting():  # what waits for its start is not idle
                await self._started(record, by_hand=False)

    async def start(self, record: TransformRecord) -> None:
        with self._fleet.dispatcher(record.id).wanted():
            await self._started(record, by_hand=True)

    def workers(self, record: TransformRecord) -> int:
        return max(self._fleet.dispatcher(record.id).capacity, 1)

    def waiting(self, record: TransformRecord) -> AbstractContextManager[None]:
        return self._fleet.dispatcher(record.id).waiting()

    async def connect(self, record: TransformRecord, job: wire.Job, input: FileSpan | None) -> WorkerConnection:  # noqa: A002
        dispatcher = self._fleet.dispatcher(record.id)
        timeout = max(self._settings.etl.progress_timeout, record.manifest.sample_timeout) + STALL_GRACE_SECONDS
        while True:
            try:
                if record.manifest.container is not None:
                    return await dispatcher.connect(
                        lambda place: self._open_container(place, record, job, input), wants_more=job.stages > 0
                    )
                return await dispatcher.connect(
                    lambda place: self._open_job(place, record, job, timeout), wants_more=job.stages > 0
                )
            except NoPods:
                await self.ensure(record)

    async def _open_job(
        self, place: Place, record: TransformRecord, job: wire.Job, progress_timeout: float
    ) -> WorkerConnection:
        images = await self._images(place, record)
        connection = await open_job(place, job, progress_timeout)
        connection.hello = replace(connection.hello, environment={**connection.hello.environment, "image": images})
        return connection

    async def _images(self, place: Place, record: TransformRecord) -> str:
        """What the pod runs. Pods and their addresses are watched apart, and one may be known before the other."""
        with suppress(TimeoutError):
            async with asyncio.timeout(IMAGE_SECONDS):
                while not (images := self._view.images(place.endpoint.pod)):
                    await self._view.wait_for_change(record.id, IMAGE_SECONDS)
                return images
        raise WorkerLost(f"the API server does not say what pod {place.endpoint.pod} of {record.id} runs")

    def demands(self) -> Demands:
        """What readers of this process want."""
        return self._fleet.demands()

    async def status(self, id: str) -> RunnerStatus:  # noqa: A002
        if not self._view.synced:
            return RunnerStatus("pending", "the Kubernetes API has not answered yet", "is it up, and may we read it?")
        failure = self._refused.get(id)
        if failure is not None and self._view.deployment(id) is None:
            return RunnerStatus("failed", failure.message, failure.hint, since=failure.at)
        return self._judge(id).status

    async def stop(self, record: TransformRecord) -> None:
        await self._synced()
        while not self._stopped(record.id):
            deployment = self._view.deployment(record.id)
            if deployment is None:  # it has to be there to be known as stopped
                await self._objects.apply(record)
            else:
                await self._objects.stop(deployment)
            await self._view.wait_for_change(record.id, LOOK_SECONDS)

    async def supersede(self, id: str, *, superseded: bool) -> None:  # noqa: A002
        await self._synced()
        deployment = self._view.deployment(id)
        noted = names.ANNOTATION_SUPERSEDED in annotations_of(deployment) if deployment is not None else superseded
        if deployment is not None and noted != superseded:
            await self._objects.supersede(deployment, superseded=superseded)

    async def remove(self, id: str) -> None:  # noqa: A002
        self._refused.pop(id, None)
        await self._objects.delete((await self._objects.manifests()).name(id))
        self._fleet.forget(id)

    async def logs(self, id: str, *, tail: int) -> str:  # noqa: A002
        return await self._logs.tail(id, tail)

    def follow(self, id: str, *, tail: int) -> AsyncGenerator[bytes]:  # noqa: A002
        return self._logs.follow(id, tail)

    async def aclose(self) -> None:
        """Pods stay: they are the cluster's, and other gateways use them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._containers.aclose()

    async def _open_container(
        self, place: Place, record: TransformRecord, job: wire.Job, file: FileSpan | None
    ) -> WorkerConnection:
        """A container begins when its first bytes are asked for; that it can be reached is to be known before."""
        endpoint = place.endpoint
        environment = {"image": await self._images(place, record), "spec": self._view.spec(endpoint.pod)}
        (await connect(endpoint.address, endpoint.port)).close()
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address

        def done(_lost: bool) -> None:
            if place.running:
                place.release()

        return self._containers.connection(f"{host}:{endpoint.port}", record, job, file, done, environment)

    def _stopped(self, transform_id: str) -> bool:
        deployment = self._view.deployment(transform_id)
        return deployment is not None and names.ANNOTATION_STOPPED in annotations_of(deployment)

    def _ready(self, transform_id: str) -> bool:
        slices = self._view.slices.group(names.transform_label(transform_id)).values()
        return any(True for _ in ready_endpoints(slices, 1))

    async def _started(self, record: TransformRecord, *, by_hand: bool) -> None:
        """Concurrent callers share one start; one by hand begins its own, for it may do more."""
        start = self._starts.get(record.id)
        if start is None or by_hand:
            start = asyncio.create_task(self._start(record, by_hand=by_hand))
            self._starts[record.id] = start
            self._tasks.add(start)
            start.add_done_callback(lambda done: self._forget(record.id, done))
        await asyncio.shield(start)

    def _forget(self, transform_id: str, start: asyncio.Task[None]) -> None:
        self._tasks.discard(start)
        if self._starts.get(transform_id) is start:
            del self._starts[transform_id]
        if not start.cancelled():
            start.exception()  # whoever waited for it was told; nobody may have

    async def _start(self, record: TransformRecord, *, by_hand: bool) -> None:
        since = datetime.now(UTC)
        applied = seen = False
        woken = ""
        await self._synced()
        resting = self._view.deployment(record.id)
        if resting is not None and resting["spec"]["replicas"] == 0:
            self._raise_resting(resting, since, by_hand=by_hand)
        await self._install(record)
        while True:
            deployment = self._view.deployment(record.id)
            if seen and deployment is None:
                raise _was_deleted(record.id)
            seen = deployment is not None
            if not applied and (deployment is None or (by_hand and _outdated(deployment, record))):
                await self._apply(record)
                applied = True
            elif deployment is None or deployment["metadata"]["resourceVersion"] == woken:
                pass  # the watch will tell
            elif deployment["spec"]["replicas"] == 0:
                self._raise_resting(deployment, since, by_hand=by_hand)
                woken = deployment["metadata"]["resourceVersion"]
                await self._objects.renew_token(record)  # nobody may have led for longer than a token lives
                await self._objects.wake(deployment, self._policy.replicas(record.options)[0])
            elif self._ready(record.id):
                return
            else:
                await self._raise_hopeless(deployment, record.id)
            await self._view.wait_for_change(record.id, LOOK_SECONDS)

    async def _install(self, record: TransformRecord) -> None:
        """See that what its image lacks is there, before there are pods that want it."""
        environment = self._policy.environment(record.manifest, record.options)
        if environment is None or await self._environments.has(environment):
            return
        try:
            seen = self._view.deployment(record.id)
            await self._objects.announce(record, seen, ", ".join(environment.requirements))
            await self._environments.ensure(environment)
        except TransformStartError as error:
            self._refused[record.id] = failure = Failure(error.message, error.hint)
            await self._objects.park_at_rest(record.id, failure)
            raise _cant_start(record.id, error.message, error.hint) from error

    async def _apply(self, record: TransformRecord) -> None:
        self._refused.pop(record.id, None)
        try:
            await self._objects.apply(record)
        except TransformStartError as error:
            self._refused[record.id] = Failure(error.message, error.hint)
            raise _cant_start(record.id, error.message, error.hint) from error

    def _raise_resting(self, deployment: Object, since: datetime, *, by_hand: bool) -> None:
        """Refuse to wake what somebody stopped, or what failed a moment ago: eight readers share one failure."""
        transform_id = annotations_of(deployment)[names.ANNOTATION_ID]
        stopped = annotations_of(deployment).get(names.ANNOTATION_STOPPED)
        if stopped and (not by_hand or datetime.fromisoformat(stopped) > since):
            raise _was_stopped(transform_id)
        failure = Failure.of(deployment)
        if failure is None:
            return
        recent = (datetime.now(UTC) - failure.at).total_seconds() < FAILURE_SECONDS
        if failure.at > since or (recent and not by_hand):
            raise _cant_start(transform_id, failure.message, failure.hint)

    async def _raise_hopeless(self, deployment: Object, transform_id: str) -> None:
        verdict = self._judge(transform_id)
        if verdict.hopeless:
            failure = Failure(verdict.status.message, verdict.status.hint)
            await self._objects.park(deployment, failure)
            raise _cant_start(transform_id, failure.message, failure.hint)

    def _judge(self, transform_id: str) -> Verdict:
        patience = self._settings.kubernetes.patience_seconds
        return judge(self._view.observe(transform_id), now=datetime.now(UTC), patience=patience)

    async def _synced(self) -> None:
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await self._view.wait_until_synced()
        except TimeoutError:
            raise KubernetesUnavailable(
                "the Kubernetes API has not answered yet", hint="is it up, and is the gateway's Role complete?"
            ) from None


@asynccontextmanager
async def open_runner(
    settings: Settings,
    tokens: Tokens,
    environments: Environments,
    records: Callable[[], Awaitable[list[TransformRecord]]],
    demands: Callable[[], Awaitable[tuple[Demands, bool]]],
) -> AsyncIterator[KubernetesRunner]:
    """Watch the cluster, contend for the Lease, and take pods into use.

    Args:
        settings: All of them.
        tokens: Signs the pods' tokens.
        environments: What pods may need beside their image.
        records: All registered transforms.
        demands: What the readers of all gateways want, and whether all gateways said so.

    Raises:
        BadRequest: There is no way to the API server.
    """
    kubernetes, etl = settings.kubernetes, settings.etl
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(open_api(kubernetes.kubeconfig, kubernetes.namespace))
        view = await stack.enter_async_context(open_view(api, kubernetes.instance))
        policy = Policy(kubernetes)
        objects = Objects(api, settings, policy, tokens)
        here = Here(kubernetes.node)
        fleet = Fleet(
            api,
            view,
            here=here,
            max_waiting=etl.max_waiting,
            idle_seconds=etl.idle_seconds,
            superseded_idle_seconds=min(etl.idle_seconds, etl.superseded_idle_seconds),
            calm_seconds=kubernetes.calm_seconds,
        )
        url = kubernetes.gateway_url or settings.serve.public_url
        builder = EnvironmentBuilder(api, kubernetes, tokens, environments, url, objects.owner)
        runner = KubernetesRunner(settings, view, fleet, objects, builder, policy, PodLogs(api, view))
        stack.push_async_callback(runner.aclose)
        reconciler = Reconciler(view, objects, policy, builder, records, kubernetes.token_seconds)
        scaler = Scaler(fleet.targets, demands, fleet.scale)
        instance = names.instance_name(kubernetes.instance)
        lease = Lease(api, instance, f"{socket.gethostname()}-{os.getpid()}", partial(_lease, objects, instance))
        contending = asyncio.create_task(_contend(view, lease, reconciler, scaler), name="lease")
        stack.push_async_callback(_end, contending)
        stack.push_async_callback(_end, asyncio.create_task(_learn_zone(api, here), name="zone"))
        yield runner


async def _learn_zone(api: KubeApi, here: Here) -> None:
    """By any endpoint of our node, this gateway's own for one: a node itself is nothing that a gateway may look at."""
    while here.node and not here.zone:
        with suppress(KubernetesError):
            async for page, _ in api.list(ENDPOINT_SLICE):
                listed = (endpoint for piece in page for endpoint in piece.get("endpoints") or ())
                mine = next((endpoint for endpoint in listed if endpoint.get("nodeName") == here.node), None)
                if mine is not None:
                    here.zone = str(mine.get("zone") or "")  # not every cluster has zones
                    return
        await asyncio.sleep(ZONE_SECONDS)


async def _lease(objects: Objects, instance: str) -> dict[str, Any]:
    """The Lease goes with the installation, too."""
    owner = await objects.owner()
    return {"labels": names.instance_labels(instance), "ownerReferences": [owner] if owner else []}


async def _contend(view: ClusterView, lease: Lease, reconciler: Reconciler, scaler: Scaler) -> None:
    """Nobody leads who does not know what there is."""

    async def lead() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reconciler.run())
            tasks.create_task(scaler.run())

    await view.wait_until_synced()
    await lease.run(lead)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _cant_start(transform_id: str, message: str, hint: str) -> TransformStartError:
    return TransformStartError(f"{transform_id} can't start: {message}", hint=hint)


def _was_deleted(transform_id: str) -> Conflict:
    return Conflict(f"transform {transform_id} was deleted while it started", hint="register it again")


def _was_stopped(transform_id: str) -> Conflict:
    return Conflict(
        f"transform {transform_id} was stopped", hint=f"`shardgate etl start {transform_id}` starts it again"
    )


def _outdated(deployment: Object, record: TransformRecord) -> bool:
    return annotations_of(deployment).get(names.ANNOTATION_OPTIONS) != options_digest(record)
