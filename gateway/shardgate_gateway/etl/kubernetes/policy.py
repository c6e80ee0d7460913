"""What a transform gets in the cluster: image, limits, workers, replicas, and what its owner may not have.

The operator's settings say what there is and what is allowed; the owner's options choose within that. What can't be is
refused when the transform is registered, not when its pod is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from shardgate.text import safe_line, safe_text
from shardgate_gateway.errors import Forbidden, PackageInvalid
from shardgate_gateway.etl.kubernetes.environment import needed
from shardgate_gateway.etl.kubernetes.pod_limits import Shares, divided, quantity
from shardgate_gateway.etl.kubernetes.pod_template import VOLUMES, matching, refused_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardgate import wire
    from shardgate_gateway.etl.kubernetes.environment import Environment
    from shardgate_gateway.etl.options import TransformOptions
    from shardgate_gateway.kube.kinds import Object
    from shardgate_gateway.settings import KubernetesSettings, RuntimeImage


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one pod, as Kubernetes writes them. `cpus` is `cpu` as a number."""

    cpu: str
    memory: str
    gpus: int
    cpus: float


class Policy:
    """Choices and refusals.

    Args:
        settings: What the operator has and allows.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings

    def check(self, manifest: wire.Manifest, options: TransformOptions) -> None:
        """Refuse what could never start, or may not.

        Raises:
            PackageInvalid: There is no image for it.
            Forbidden: It asks for more than is allowed.
        """
        self._check_requirements(manifest)
        self.image(manifest, options)
        self._check_limits(options)
        if manifest.container is not None and manifest.container.pod is not None:
            self.shares(options, manifest.container.pod["spec"])
        most = self._settings.max_replicas
        for secret in options.secrets:
            self._check_secret(manifest, secret)
        if max(options.replicas, options.min_replicas, options.max_replicas) > most:
            raise Forbidden(
                f"transform {manifest.name!r} may have {most} pods at most",
                hint="see the setting kubernetes.max_replicas",
            )

    def image(self, manifest: wire.Manifest, options: TransformOptions) -> str:
        """The image that its pods run: the owner's, or the operator's that fits best.

        Raises:
            PackageInvalid: There is none for its Python.
            Forbidden: The owner's is not allowed.
        """
        named = options.image or (manifest.container.image if manifest.container is not None else "")
        if named or manifest.container is not None:
            self._check_image(manifest, named)
            return named
        offered = self._settings.images
        fitting = [image for image in offered if image.python == manifest.python]
        if not fitting:
            versions = " and ".join(sorted({image.python for image in offered})) or "none at all"
            raise PackageInvalid(
                f"transform {manifest.name!r} was pickled by Python {manifest.python}, and this cluster has runtime "
                f"images for {versions}",
                hint=f"create it with one of these, or have the operator add an image of Python {manifest.python} "
                "(kubernetes.images)",
            )
        wanted = _distributions(manifest.requirements)
        return min(fitting, key=lambda image: _misfit(image, wanted)).image

    def environment(self, manifest: wire.Manifest, options: TransformOptions) -> Environment | None:
        """What its pods need beside what is in their image."""
        if manifest.container is not None:
            return None
        named = self.image(manifest, options)
        provides = next((image.provides for image in self._settings.images if image.image == named), ())
        return needed(manifest.requirements, named, manifest.python, provides)

    def limits(self, options: TransformOptions) -> Limits:
        """What one of its pods may use."""
        cpu = options.resources.cpu or self._settings.cpu
        memory = options.resources.memory or self._settings.memory
        return Limits(cpu, memory, options.resources.gpus, float(quantity(cpu)))

    def shares(self, options: TransformOptions, spec: Object) -> Shares:
        """What each container of one of its pods may use.

        Raises:
            Forbidden: Together they want more than the pod may use.
        """
        limits = self.limits(options)
        disk = self._settings.ephemeral_storage
        return divided({"cpu": limits.cpu, "memory": limits.memory, "ephemeral-storage": disk}, spec)

    def requested_cpu(self, limit: str) -> str:
        """What of its CPU limit a container reserves."""
        return f"{max(1, round(float(quantity(limit)) * self._settings.cpu_request_share * 1000))}m"

    def workers(self, options: TransformOptions, default: int) -> int:
        """Worker processes per pod, which is how many jobs it has at a time."""
        return options.workers or default or max(1, math.ceil(self.limits(options).cpus))

    def replicas(self, options: TransformOptions) -> tuple[int, int]:
        """The fewest and the most pods it may have, when it has any work: the fewest may be none."""
        if options.replicas:
            return options.replicas, options.replicas
        most = options.max_replicas or self._settings.max_replicas
        return options.min_replicas, max(most, options.min_replicas)

    def _check_requirements(self, manifest: wire.Manifest) -> None:
        """A requirement that is an address would have the Job fetch, and build, what the operator's index has not."""
        addresses = [text for text, requirement in _parsed(manifest.requirements) if requirement.url]
        if addresses and self._settings.requirements != "addresses":
            raise Forbidden(
                f"transform {manifest.name!r} may not require {safe_line(addresses[0], 200)!r}, which is an address",
                hint='require a version of a package index ("name==1.0"), or have the operator set '
                'kubernetes.requirements to "addresses"',
            )

    def _check_image(self, manifest: wire.Manifest, named: str) -> None:
        template = (manifest.container.pod if manifest.container is not None else None) or {}
        spec = template.get("spec") or {}
        containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
        own = {image.image for image in self._settings.images}
        for image in [named] * bool(named) + [str(container.get("image")) for container in containers]:
            if image not in own and not _matches(image, self._settings.allowed_images):
                raise Forbidden(
                    f"transform {manifest.name!r} may not run the image {image!r}",
                    hint=_allowed("images", self._settings.allowed_images),
                )
        for container in containers:
            for kind, name in _references_of(container):
                (self._check_secret if kind == "secret" else self._check_config_map)(manifest, name)
        for secret in spec.get("imagePullSecrets") or ():
            self._check_secret(manifest, str(secret.get("name")))
        for volume in spec.get("volumes") or ():
            self._check_volume(manifest, volume)
        self._check_fields(manifest, template)

    def _check_fields(self, manifest: wire.Manifest, template: Object) -> None:
        if field := refused_field(template):
            raise Forbidden(
                f"the pod template of transform {manifest.name!r} may not set {field}",
                hint="leave it out; docs/kubernetes.md says what a template may have",
            )
        metadata = template.get("metadata") or {}
        for what in ("labels", "annotations"):
            given, patterns = metadata.get(what) or {}, getattr(self._settings, f"allowed_{what}")
            if others := given.keys() - matching(given, patterns).keys():
                raise Forbidden(
                    f"the pod template of transform {manifest.name!r} may not set the {what} {min(others)!r}",
                    hint=_allowed(what, patterns),
                )

    def _check_volume(self, manifest: wire.Manifest, volume: Object) -> None:
        if (secret := volume.get("secret")) is not None:
            self._check_secret(manifest, str(secret.get("secretName")))
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            self._check_claim(manifest, str(claim.get("claimName")))
        if (config_map := volume.get("configMap")) is not None:
            self._check_config_map(manifest, str(config_map.get("name")))
        if kinds := volume.keys() - {"name", *VOLUMES}:
            raise Forbidden(
                f"transform {manifest.name!r} may not have the volume {volume.get('name')!r} of kind {min(kinds)}",
                hint=f"a pod template may have {', '.join(VOLUMES)}",
            )

    def _check_claim(self, manifest: wire.Manifest, claim: str) -> None:
        allowed = self._settings.allowed_claims
        if not _matches(claim, allowed):
            raise Forbidden(
                f"transform {manifest.name!r} may not have the volume claim {claim!r}", hint=_allowed("claims", allowed)
            )

    def _check_secret(self, manifest: wire.Manifest, secret: str) -> None:
        allowed = self._settings.allowed_secrets
        if not _matches(secret, allowed):
            raise Forbidden(
                f"transform {manifest.name!r} may not have the secret {secret!r}", hint=_allowed("secrets", allowed)
            )

    def _check_config_map(self, manifest: wire.Manifest, name: str) -> None:
        allowed = self._settings.allowed_config_maps
        if not _matches(name, allowed):
            raise Forbidden(
                f"transform {manifest.name!r} may not have the ConfigMap {name!r}",
                hint=_allowed("config_maps", allowed),
            )

    def _check_limits(self, options: TransformOptions) -> None:
        settings, asked = self._settings, options.resources
        for what, value, most in (("cpu", asked.cpu, settings.max_cpu), ("memory", asked.memory, settings.max_memory)):
            if value and quantity(value) > quantity(most):
                raise Forbidden(
                    f"resources: {what} {value} is more than the {most} that a pod may have",
                    hint=f"see the setting kubernetes.max_{what}",
                )
            if value and not quantity(value):
                raise Forbidden(f"resources: {what} {value} is nothing", hint="leave it out for the default")
        if asked.gpus > settings.max_gpus:
            raise Forbidden(
                f"resources: {asked.gpus} GPUs are more than the {settings.max_gpus} that a pod may have",
                hint="see the setting kubernetes.max_gpus",
            )


def _references_of(container: Object) -> Iterator[tuple[str, str]]:
    """Secrets and ConfigMaps in a container's environment, by their names."""
    for source in container.get("envFrom") or ():
        for kind in ("secret", "configMap"):
            if (reference := source.get(f"{kind}Ref")) is not None:
                yield kind, str(reference.get("name"))
    for variable in container.get("env") or ():
        origin = variable.get("valueFrom") or {}
        for kind in ("secret", "configMap"):
            if (reference := origin.get(f"{kind}KeyRef")) is not None:
                yield kind, str(reference.get("name"))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _allowed(what: str, patterns: Iterable[str]) -> str:
    return f"allowed {what}: {', '.join(patterns) or 'none'} (the operator's setting kubernetes.allowed_{what})"


def _distributions(requirements: Iterable[str]) -> set[str]:
    return {str(canonicalize_name(requirement.name)) for _, requirement in _parsed(requirements)}


def _parsed(requirements: Iterable[str]) -> Iterator[tuple[str, Requirement]]:
    for text in requirements:
        try:
            yield text, Requirement(text)
        except InvalidRequirement as error:
            raise PackageInvalid(
                f"requirement {safe_line(text, 200)!r}: {safe_text(error, 500)}", hint="write it like torch==2.6.0"
            ) from error


def _misfit(image: RuntimeImage, wanted: set[str]) -> tuple[int, int]:
    """How badly an image fits: what it lacks of all that any image has, then what it has for nothing."""
    has = {str(canonicalize_name(name)) for name in image.provides}
    return len(wanted - has), len(has - wanted)
