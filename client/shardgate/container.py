"""Transforms in any language: a program that speaks HTTP, from an image, a pod template, or a command of this machine.

What such a program has to do stands at `shardgate.wire.Container`, and with examples in docs/transforms.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shardgate import wire
from shardgate.capture import checked_name, fitting_name
from shardgate.errors import CaptureError
from shardgate.transform import Transform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shardgate.gateway_like import GatewayLike

READABLE_PROBES = ("readinessProbe", "startupProbe", "livenessProbe")


class ContainerTransform(Transform):
    """A program that the gateway runs and asks; made by `Client.etl_from_image` and `Client.etl_from_spec`.

    Args:
        client: The gateway.
        container: How to run it.
        name: Of the transform.
        verbose: Print two lines about it.
        options: How to run it, as in `WDTransform`; not part of its identity.

    Raises:
        InvalidName: The name does not fit.
        BadRequest: The gateway can't run it, and why.
        TransformFailed: It did not become ready.
    """

    def __init__(
        self, client: GatewayLike, container: wire.Container, name: str, verbose: bool, options: Mapping[str, Any]
    ) -> None:
        manifest = wire.Manifest(name=checked_name(name), kind="container", decoder="", container=container)
        super().__init__(client, manifest, wire.pack_package(manifest), verbose, options)


def container_of_spec(spec: Mapping[str, Any], **how: Any) -> tuple[wire.Container, str]:
    """What a pod template or a whole Pod says: the container, and the name in its metadata.

    The first container is the one that listens, at its first `containerPort`, and a probe of it gives the health path,
    unless `how` has `port` or `health`.

    Raises:
        CaptureError: It has no container.
    """
    pod = json.loads(json.dumps({name: spec[name] for name in ("metadata", "spec") if name in spec}, sort_keys=True))
    try:
        first = pod["spec"]["containers"][0]
        ports = [port["containerPort"] for port in first.get("ports", ())]
        probes = [first[name]["httpGet"]["path"] for name in READABLE_PROBES if "httpGet" in first.get(name, {})]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CaptureError(
            "the pod template has no container",
            hint="it needs spec.containers, as in a Pod or in a Deployment's template",
        ) from None
    found = {"port": ports[0]} if ports else {}
    if probes:
        found["health"] = probes[0]
    given = {name: value for name, value in how.items() if value is not None}
    name = pod.get("metadata", {}).get("name", "")
    return wire.Container(pod=pod, **{**found, **given}), name or str(first.get("name", ""))


def load_spec(path: Path) -> dict[str, Any]:
    """Read a pod template from a YAML or JSON file.

    Raises:
        CaptureError: It can't be read, or holds something else.
    """
    import yaml  # noqa: PLC0415 (only for this)

    try:
        spec = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CaptureError(f"{path} can't be read: {error}") from error
    if not isinstance(spec, dict):
        raise CaptureError(f"{path} holds no pod template", hint="it needs spec.containers, as in a Pod")
    return spec


def name_of_image(image: str) -> str:
    """`registry/team/resize:1.2` becomes "resize"."""
    return fitting_name(image.partition("@")[0].rpartition("/")[2].partition(":")[0]) or "container"
