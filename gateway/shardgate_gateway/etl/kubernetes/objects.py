"""Writing a transform's objects: made, woken, parked, put to rest, deleted.

Everything is idempotent or conditional, for several gateways do it at once. Making is server-side apply. What depends
on what was seen (waking, parking, stopping) carries the version that was seen: where somebody was faster, nothing
happens (False), and the caller looks again.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from shardgate_gateway.errors import BadRequest, KubernetesError, KubernetesUnavailable, TransformStartError
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.manifests import Manifests
from shardgate_gateway.etl.kubernetes.state import installing
from shardgate_gateway.kube.kinds import DEPLOYMENT, SECRET, SERVICE, STATEFUL_SET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardgate_gateway.auth.tokens import Tokens
    from shardgate_gateway.etl.kubernetes.policy import Policy
    from shardgate_gateway.etl.kubernetes.state import Failure
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object
    from shardgate_gateway.settings import Settings

CONFLICT = 409
NOT_FOUND = 404
OWNER_SECONDS = 60.0
"""After which the owner is asked for again: a StatefulSet may be deleted without its pods, and made anew."""
PARK_TRIES = 5
_AWAKE: dict[str, None] = dict.fromkeys(
    (names.ANNOTATION_STOPPED, names.ANNOTATION_FAILED, names.ANNOTATION_INSTALLING, names.ANNOTATION_IDLE)
)
"""A merge patch: None removes."""


class Objects:
    """Writes.

    Args:
        api: Where to.
        settings: All of them.
        policy: Chooses image and limits.
        tokens: Signs the pods' tokens.
    """

    def __init__(self, api: KubeApi, settings: Settings, policy: Policy, tokens: Tokens) -> None:
        self._api = api
        self._settings = settings
        self._policy = policy
        self._tokens = tokens
        self._owner: Object | None = None
        self._look_at = 0.0

    async def manifests(self) -> Manifests:
        """What makes the objects."""
        settings = self._settings
        url = settings.kubernetes.gateway_url or settings.serve.public_url
        return Manifests(settings.kubernetes, settings.etl, self._policy, url, await self.owner())

    async def apply(self, record: TransformRecord) -> None:
        """Make the transform's objects what they should be. Replicas stay what they are, and are 1 at first.

        Raises:
            TransformStartError: The API server refuses them, and why.
        """
        await self._apply(record, (await self.manifests()).deployment(record))

    async def announce(self, record: TransformRecord, deployment: Object | None, what: str) -> None:
        """Let everybody know that something is being installed for a transform that has no pods yet.

        Args:
            record: The transform.
            deployment: As it was seen; nothing is done where it has pods.
            what: For people.
        """
        until = datetime.now(UTC) + timedelta(seconds=self._settings.kubernetes.environment_seconds)
        note = {names.ANNOTATION_INSTALLING: installing(what, until)}
        if deployment is None:
            wanted = (await self.manifests()).deployment(record)
            wanted["metadata"]["annotations"] |= note
            wanted["spec"]["replicas"] = 0  # until `apply` says nothing of it, or `wake` something else
            await self._apply(record, wanted)
        elif deployment["spec"]["replicas"] == 0:
            await self._change(deployment, 0, note | {names.ANNOTATION_FAILED: None})

    async def _apply(self, record: TransformRecord, deployment: Object) -> None:
        service = (await self.manifests()).service(record)
        try:
            await asyncio.gather(self.renew_token(record), self._api.apply(service))
            await self._api.apply(deployment)
        except KubernetesUnavailable:
            raise
        except KubernetesError as error:
            raise TransformStartError(
                f"the cluster refuses it: {error.message}",
                hint=error.hint or "the message names what is wrong, or the rule that forbids it",
            ) from error

    async def renew_token(self, record: TransformRecord) -> None:
        seconds = self._settings.kubernetes.token_seconds
        environment = self._policy.environment(record.manifest, record.options)
        scopes = [f"package:{record.id}", *([f"environment:{environment.digest}"] if environment else [])]
        token = self._tokens.mint(f"pods of {record.id}", scopes, seconds=seconds)
        key = self._tokens.derived(f"the secrets of {record.id}")
        await self._api.apply((await self.manifests()).secret(record.id, token, key))

    async def wake(self, deployment: Object, replicas: int) -> bool:
        return await self._change(deployment, max(1, replicas), _AWAKE | {names.ANNOTATION_AWAKE: _now()})

    async def park(self, deployment: Object, failure: Failure) -> bool:
        """Take the pods of a start down that can't succeed, and remember why."""
        notes = {names.ANNOTATION_INSTALLING: None, names.ANNOTATION_FAILED: failure.dump()}
        return await self._change(deployment, 0, notes)

    async def park_at_rest(self, transform_id: str, failure: Failure) -> None:
        """Remember why a transform that has no pods can't get any, whatever else is noted there meanwhile."""
        name = (await self.manifests()).name(transform_id)
        for _ in range(PARK_TRIES):
            deployment = await self._api.get(DEPLOYMENT, name)
            if deployment is None or deployment["spec"]["replicas"] or await self.park(deployment, failure):
                return

    async def stop(self, deployment: Object) -> bool:
        return await self._change(deployment, 0, _AWAKE | {names.ANNOTATION_STOPPED: _now()})

    async def supersede(self, deployment: Object, *, superseded: bool) -> None:
        """Note that its name means a newer version now, or means it again. Raises KubernetesError."""
        note = {names.ANNOTATION_SUPERSEDED: _now() if superseded else None}
        try:
            await self._api.patch(DEPLOYMENT, deployment["metadata"]["name"], {"metadata": {"annotations": note}})
        except KubernetesError as error:
            if error.status != NOT_FOUND:
                raise

    async def delete(self, name: str) -> None:
        """Delete all objects of this name; the Deployment last, for by it orphans are found."""
        await asyncio.gather(*(self._api.delete(kind, name) for kind in (SERVICE, SECRET)))
        await self._api.delete(DEPLOYMENT, name)

    async def _change(self, deployment: Object, replicas: int, notes: Mapping[str, str | None]) -> bool:
        seen = deployment["metadata"]
        patch = {
            "metadata": {"resourceVersion": seen["resourceVersion"], "annotations": notes},
            "spec": {"replicas": replicas},
        }
        try:
            await self._api.patch(DEPLOYMENT, seen["name"], patch)
        except KubernetesError as error:
            if error.status in {CONFLICT, NOT_FOUND}:
                return False
            raise
        return True

    async def owner(self) -> Object | None:
        """Reference to what owns all that is made here, so that it goes with it.

        Raises:
            BadRequest: It is not there.
            KubernetesError: Whether it is can't be found out.
        """
        name = self._settings.kubernetes.owner
        if not name or time.monotonic() < self._look_at:
            return self._owner
        owner = await self._api.get(STATEFUL_SET, name)
        if owner is None:
            raise BadRequest(
                f"there is no StatefulSet {name!r} to own the pods of transforms",
                hint="see the setting kubernetes.owner",
            )
        self._look_at = time.monotonic() + OWNER_SECONDS
        self._owner = {
            "apiVersion": STATEFUL_SET.api_version,
            "kind": STATEFUL_SET.name,
            "name": name,
            "uid": owner["metadata"]["uid"],
        }
        return self._owner


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
