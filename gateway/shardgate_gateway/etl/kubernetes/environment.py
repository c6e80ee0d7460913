"""Makes the environment that a transform's pods need, by a Job, once.

Which requirements an image lacks is known from what the operator says it has; the Job looks again, in the image
itself. So the list may be incomplete (a Job then finds little to do, once) but not wrong. The name of an environment is
the digest of what goes into it, and so is the Job's: ten gateways that need the same one make one Job, and all wait for
what it uploads. Only the Job's pods may reach a package index, by their label.

A Job that can't succeed says why in its termination log, and is gone by the next attempt; one whose gateway died ends
by its deadline, and is removed by Kubernetes some time after.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shardgate.wire import paths
from shardgate_gateway.auth.scopes import ENVIRONMENT
from shardgate_gateway.errors import KubernetesError, KubernetesUnavailable, TransformStartError
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.pod_problems import problem_of_pod, problem_of_refusal
from shardgate_gateway.kube.kinds import EVENT, JOB, POD, SECRET
from shardgate_gateway.kube.watch import Reflector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from shardgate_gateway.auth.tokens import Tokens
    from shardgate_gateway.etl.environments import Environments
    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object
    from shardgate_gateway.settings import KubernetesSettings

FORMAT = 1
"""Part of every digest: raised when what an environment looks like changes."""
COMPONENT = "environment"
LABEL = "shardgate.io/environment"
TOKEN_FOLDER = "/var/run/shardgate/token"  # noqa: S105 (a folder)
_WHEELS_ONLY = ("--only-binary=:all:",)
"""Before the operator's own options, which may make exceptions."""
CANT_SUCCEED = 78
CONFLICT = 409
KEPT_SECONDS = 600
"""For which Kubernetes keeps a finished Job, for whoever wants to read its log."""
LOOK_SECONDS = 2.0
"""Another gateway's Job may end without a change that we see."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What pods of an image need beside what is in it."""

    image: str
    python: str
    requirements: tuple[str, ...]

    @property
    def digest(self) -> str:
        made_from = [FORMAT, self.image, self.python, sorted(self.requirements)]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def needed(requirements: Iterable[str], image: str, python: str, provides: Iterable[str]) -> Environment | None:
    """The environment for these requirements; None where the image has all of them.

    Args:
        requirements: Of the transform.
        image: That its pods run.
        python: Of that image.
        provides: Distributions in the image beside those that every runtime image has.
    """
    present = _always() | {str(canonicalize_name(name)) for name in provides}
    absent = tuple(text for text in requirements if str(canonicalize_name(Requirement(text).name)) not in present)
    return Environment(image, python, absent) if absent else None


@cache
def _always() -> frozenset[str]:
    """What every runtime image has: our dependencies, and those of the extra `runtime`."""
    own = map(Requirement, metadata.requires("shardgate") or ())
    return frozenset(
        str(canonicalize_name(r.name)) for r in own if r.marker is None or r.marker.evaluate({"extra": "runtime"})
    )


class EnvironmentBuilder:
    """Runs Jobs.

    Args:
        api: Where.
        settings: Index, limits and times.
        tokens: Signs the Jobs' tokens.
        environments: What there is already, and where the Jobs bring theirs.
        gateway_url: How pods reach the gateway.
        owner: What the Jobs go with, if they have an owner.
    """

    def __init__(
        self,
        api: KubeApi,
        settings: KubernetesSettings,
        tokens: Tokens,
        environments: Environments,
        gateway_url: str,
        owner: Callable[[], Awaitable[Object | None]],
    ) -> None:
        self._api = api
        self._settings = settings
        self._tokens = tokens
        self._environments = environments
        self._gateway_url = gateway_url.rstrip("/")
        self._owner = owner
        self._instance = names.instance_name(settings.instance)

    async def has(self, environment: Environment) -> bool:
        return await self._environments.find(environment.digest) is not None

    async def ensure(self, environment: Environment) -> None:
        """Return when it is there.

        Raises:
            TransformStartError: It can't be made, in pip's own words.
            KubernetesError: The cluster does not let us.
        """
        if await self.has(environment):
            return
        name = f"{self._instance}-env-{environment.digest[:16]}"
        selector = f"{LABEL}={environment.digest[:16]}"
        async with AsyncExitStack() as stack:
            jobs = await stack.enter_async_context(Reflector(self._api, JOB, selector))
            pods = await stack.enter_async_context(Reflector(self._api, POD, selector))
            warnings = f"type=Warning,involvedObject.kind=Job,involvedObject.name={name}"
            events = await stack.enter_async_context(Reflector(self._api, EVENT, fields=warnings))
            job = await self._start(name, environment, jobs)
            try:
                async with asyncio.timeout(self._settings.environment_seconds):
                    await self._wait(environment, job, jobs, pods, events)
            except TimeoutError:
                raise TransformStartError(
                    f"installing {', '.join(environment.requirements)} took more than "
                    f"{self._settings.environment_seconds:g} s",
                    hint="the Job's log may tell; see the setting kubernetes.environment_seconds",
                ) from None
        await self._api.delete(JOB, name)

    async def _start(self, name: str, environment: Environment, jobs: Reflector) -> str:
        """Make the Job, or join the one that runs; its uid."""
        while True:
            try:
                job = await self._api.create(self._job(name, environment, await self._owner()))
            except KubernetesError as error:
                if isinstance(error, KubernetesUnavailable):
                    raise
                if error.status != CONFLICT:
                    raise self._failure(environment, error.message, error.hint) from error
                job = await self._api.get(JOB, name) or {}
                if not job or _is_over(job):  # of an attempt that left nothing
                    await self._api.delete(JOB, name)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(jobs.wait_for_change(), LOOK_SECONDS)
                    continue
            await self._api.apply(self._secret(name, environment, job))  # whoever made the Job may have died before
            return str(job["metadata"]["uid"])

    async def _wait(
        self, environment: Environment, job: str, jobs: Reflector, pods: Reflector, events: Reflector
    ) -> None:
        while not await self.has(environment):
            own = [pod for pod in pods.items.values() if _owner(pod) == job]
            self._raise_hopeless(environment, own)
            self._raise_refused(environment, [event for event in events.items.values() if _about(event) == job])
            failed = next(
                (_condition(obj, "Failed") for obj in jobs.items.values() if obj["metadata"]["uid"] == job), ""
            )
            if failed:
                raise self._failure(environment, failed, "see the Job's log")
            changes = [asyncio.ensure_future(watch.wait_for_change()) for watch in (jobs, pods, events)]
            try:
                await asyncio.wait(changes, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()

    def _raise_hopeless(self, environment: Environment, pods: Iterable[Object]) -> None:
        for pod in pods:
            if said := _last_words(pod):
                raise TransformStartError(said["message"], hint=said.get("hint", ""))
            problem = None if (pod.get("status") or {}).get("phase") == "Failed" else problem_of_pod(pod, ())
            if problem is not None and not problem.heals:
                raise self._failure(environment, problem.message, problem.hint)

    def _raise_refused(self, environment: Environment, events: Iterable[Object]) -> None:
        """A Job says nowhere else that its pod can't be created."""
        for event in events:
            if event.get("reason") == "FailedCreate":
                problem = problem_of_refusal(str(event.get("message", "")), None)
                raise self._failure(environment, problem.message, problem.hint)

    def _failure(self, environment: Environment, why: str, hint: str) -> TransformStartError:
        return TransformStartError(f"installing {', '.join(environment.requirements)} failed: {why}", hint=hint)

    def _job(self, name: str, environment: Environment, owner: Object | None) -> Object:
        settings = self._settings
        labels = {
            **names.instance_labels(self._instance),
            "app.kubernetes.io/component": COMPONENT,
            LABEL: environment.digest[:16],
        }
        pod: Object = {
            "restartPolicy": "Never",
            "serviceAccountName": settings.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": secret} for secret in settings.pull_secrets],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": names.NOBODY,
                "runAsGroup": names.NOBODY,
                "fsGroup": names.NOBODY,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self._container(environment)],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": settings.ephemeral_storage}},
                {"name": "token", "secret": {"secretName": name, "defaultMode": 0o440}},
            ],
        }
        return {
            "apiVersion": JOB.api_version,
            "kind": JOB.name,
            "metadata": {"name": name, "labels": labels, **({"ownerReferences": [owner]} if owner else {})},
            "spec": {
                "backoffLimit": 2,
                "activeDeadlineSeconds": int(settings.environment_seconds),
                "ttlSecondsAfterFinished": KEPT_SECONDS,
                "podFailurePolicy": {
                    "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [CANT_SUCCEED]}}]
                },
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }

    def _container(self, environment: Environment) -> Object:
        settings = self._settings
        flags = {
            "--requirement": environment.requirements,
            "--pip": [*_WHEELS_ONLY * (settings.requirements == "wheels"), *settings.pip_options],
            "--upload-url": [self._gateway_url + paths.environment_path(environment.digest)],
            "--token-file": [f"{TOKEN_FOLDER}/token"],
        }
        limits = {"cpu": settings.cpu, "memory": settings.memory, "ephemeral-storage": settings.ephemeral_storage}
        return {
            "name": COMPONENT,
            "image": environment.image,
            "imagePullPolicy": settings.pull_policy,
            "command": ["python", "-m", "shardgate_runtime.environment"],
            "args": [
                *(f"{flag}={value}" for flag, values in flags.items() for value in values),
                *["--addresses"] * (settings.requirements == "addresses"),
            ],
            "volumeMounts": [
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 (a volume)
                {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
            ],
            "resources": {"limits": limits, "requests": {"cpu": "100m", "memory": "256Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }

    def _secret(self, name: str, environment: Environment, job: Object) -> Object:
        """The Job's token, which goes with it."""
        scope = f"{ENVIRONMENT}:{environment.digest}"
        token = self._tokens.mint(f"Job {name}", [scope], seconds=self._settings.environment_seconds)
        owner = {"apiVersion": JOB.api_version, "kind": JOB.name, "name": name, "uid": job["metadata"]["uid"]}
        return {
            "apiVersion": "v1",
            "kind": SECRET.name,
            "metadata": {
                "name": name,
                "labels": names.instance_labels(self._instance),
                "ownerReferences": [owner],
            },
            "type": "Opaque",
            "stringData": {"token": token},
        }


def _is_over(job: Object) -> bool:
    return bool(_condition(job, "Failed") or _condition(job, "Complete"))


def _condition(job: Object, kind: str) -> str:
    """What a condition of a Job that is true says; "" where it is not."""
    conditions: Iterable[Mapping[str, str]] = (job.get("status") or {}).get("conditions") or ()
    return next((c.get("message") or kind for c in conditions if c["type"] == kind and c["status"] == "True"), "")


def _about(event: Object) -> str:
    return str(event["involvedObject"].get("uid", ""))


def _owner(pod: Object) -> str:
    return next((str(owner["uid"]) for owner in pod["metadata"].get("ownerReferences") or ()), "")


def _last_words(pod: Object) -> dict[str, str]:
    """What a container left behind that says itself that it can't succeed."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = container["state"].get("terminated") or {}
        if ended.get("exitCode") == CANT_SUCCEED:
            try:
                said: dict[str, str] = json.loads(ended.get("message") or "")
            except ValueError:
                return {"message": str(ended.get("message") or "the environment can't be made")}
            return said
    return {}
