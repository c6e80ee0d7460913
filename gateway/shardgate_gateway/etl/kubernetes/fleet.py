"""The pods of all transforms: a queue for each, kept up to date by the watches, and what the Lease's holder scales."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from shardgate_gateway.errors import KubernetesError
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.demand import Demand
from shardgate_gateway.etl.kubernetes.dispatch import Dispatcher
from shardgate_gateway.etl.kubernetes.routing import Here, Routes, ready_endpoints
from shardgate_gateway.etl.kubernetes.scale import Bounds, Target
from shardgate_gateway.kube.kinds import DEPLOYMENT, annotations_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate_gateway.etl.kubernetes.demand import Demands
    from shardgate_gateway.etl.kubernetes.view import ClusterView
    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object

UNSCALED = '{"min": 0, "max": 1, "workers": 1}'
"""Of a Deployment that does not say."""
_NOT_FOLLOWING = {names.ANNOTATION_STOPPED, names.ANNOTATION_FAILED, names.ANNOTATION_INSTALLING}


class Fleet:
    """All pods that jobs can go to.

    Args:
        api: Where Deployments are scaled.
        view: What is watched.
        here: Where this gateway runs.
        max_waiting: Jobs per transform that may wait here.
        idle_seconds: Without demand, after which a transform may have no pod.
        superseded_idle_seconds: The same for a version whose name means a newer one, even if pods of it were to stay.
        calm_seconds: For so long fewer pods must have been enough before there are fewer.
    """

    def __init__(
        self,
        api: KubeApi,
        view: ClusterView,
        *,
        here: Here,
        max_waiting: int,
        idle_seconds: float,
        superseded_idle_seconds: float,
        calm_seconds: float,
    ) -> None:
        self._api = api
        self._view = view
        self._here = here
        self._max_waiting = max_waiting
        self._idle_seconds = idle_seconds
        self._superseded_idle_seconds = superseded_idle_seconds
        self._calm_seconds = calm_seconds
        self._dispatchers: dict[str, Dispatcher] = {}
        self._ids: dict[str, str] = {}
        view.slices.subscribe(self._update)
        view.deployments.subscribe(self._update)

    def dispatcher(self, transform_id: str) -> Dispatcher:
        """The queue for this transform's pods."""
        if transform_id not in self._dispatchers:
            self._dispatchers[transform_id] = Dispatcher(transform_id, Routes(self._here), self._max_waiting)
            label = names.transform_label(transform_id)
            self._ids[label] = transform_id
            self._update(label)
        return self._dispatchers[transform_id]

    def forget(self, transform_id: str) -> None:
        """A transform was deleted."""
        self._dispatchers.pop(transform_id, None)
        self._ids.pop(names.transform_label(transform_id), None)

    def demands(self) -> Demands:
        """What readers of this process want."""
        return {id: Demand(d.demand, d.idle_seconds) for id, d in self._dispatchers.items()}  # noqa: A001

    def targets(self) -> Iterator[Target]:
        """The Deployments that follow demand: not those that somebody stopped, or that can't start (yet)."""
        now = datetime.now(UTC)
        for deployment in self._view.deployments.items.values():
            notes = annotations_of(deployment)
            if names.ANNOTATION_ID not in notes or notes.keys() & _NOT_FOLLOWING:
                continue
            since = notes.get(names.ANNOTATION_AWAKE) or deployment["metadata"]["creationTimestamp"]
            yield Target(
                notes[names.ANNOTATION_ID],
                name_of(deployment),
                deployment["spec"]["replicas"],
                deployment["metadata"]["resourceVersion"],
                (now - datetime.fromisoformat(since)).total_seconds(),
                self._bounds(deployment),
            )

    async def scale(self, target: Target, replicas: int) -> None:
        """Set how many pods there should be, unless something has changed since that was decided.

        Raises:
            KubernetesError: The API server refuses, or does not answer.
        """
        idle = datetime.now(UTC).isoformat() if replicas == 0 else None
        notes = {names.ANNOTATION_IDLE: idle}
        patch = {"metadata": {"resourceVersion": target.version, "annotations": notes}, "spec": {"replicas": replicas}}
        try:
            await self._api.patch(DEPLOYMENT, target.name, patch)
        except KubernetesError as error:
            if error.status not in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                raise

    def _update(self, label: str) -> None:
        transform_id = self._ids.get(label)
        if transform_id is None:
            return
        deployment = self._view.deployment(transform_id)
        workers = self._bounds(deployment).workers if deployment else 1
        slices = self._view.slices.group(label).values()
        self._dispatchers[transform_id].update(ready_endpoints(slices, workers))

    def _bounds(self, deployment: Object) -> Bounds:
        scaling = json.loads(annotations_of(deployment).get(names.ANNOTATION_SCALING, UNSCALED))
        fewest, most, workers = scaling["min"], scaling["max"], scaling["workers"]
        if names.ANNOTATION_SUPERSEDED in annotations_of(deployment):
            return Bounds(0, most, workers, self._superseded_idle_seconds, self._calm_seconds)
        return Bounds(fewest, most, workers, self._idle_seconds, self._calm_seconds)
