"""How the limits of a pod are divided among its containers, so that all together they are what one pod may use.

Kubernetes adds up what runs at the same time: the containers, and init containers that go on running (`restartPolicy:
Always`). Init containers that end run one at a time, before the containers and beside those that go on.

A container beside the first may say in its template what it wants; those that don't say so share the rest equally with
the first. GPUs are the first one's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from shardgate.text import safe_line
from shardgate_gateway.errors import Forbidden, PackageInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardgate_gateway.kube.kinds import Object

QUANTITY = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
LEAST = {"cpu": Decimal("0.001"), "memory": Decimal(1 << 20), "ephemeral-storage": Decimal(1 << 20)}
"""Of each resource, what a container can't be without; and all resources that are divided."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Limits of the containers and init containers of a pod, in their order."""

    containers: list[dict[str, str]]
    inits: list[dict[str, str]]


def divided(total: Mapping[str, str], spec: Object) -> Shares:
    """Divide.

    Args:
        total: Of the pod: `cpu`, `memory`, `ephemeral-storage`, as Kubernetes writes them.
        spec: Of the pod; the first container is the one that answers.

    Raises:
        Forbidden: Some containers want so much that nothing is left for the others.
        PackageInvalid: A limit that is none.
    """
    containers = spec.get("containers") or [{}]
    inits = spec.get("initContainers") or []
    shares = Shares([{} for _ in containers], [{} for _ in inits])
    lasting = [index for index, init in enumerate(inits) if init.get("restartPolicy") == "Always"]
    running = [shares.containers[0], *shares.containers[1:], *(shares.inits[index] for index in lasting)]
    givers = [{}, *containers[1:], *(inits[index] for index in lasting)]
    for name, text in total.items():
        _divide(name, text, running, givers)
        beside = sum((quantity(shares.inits[index][name]) for index in lasting), Decimal(0))
        for index, init in enumerate(inits):
            if index not in lasting:
                shares.inits[index][name] = _alone(name, text, beside, init)
    return shares


def _divide(name: str, total: str, running: list[dict[str, str]], givers: list[Object]) -> None:
    given = [_given(container, name) for container in givers]
    sharing = given.count(None)
    rest = quantity(total) - sum((value for value in given if value is not None), Decimal(0))
    if rest / sharing < LEAST[name]:
        raise _too_much(name, total)
    each = total if len(running) == 1 else _text(name, rest / sharing)
    for share, value in zip(running, given, strict=True):
        share[name] = each if value is None else _text(name, value)


def _alone(name: str, total: str, beside: Decimal, container: Object) -> str:
    """Of an init container that ends: all that those which go on leave, or what it says."""
    rest, given = quantity(total) - beside, _given(container, name)
    if (given or LEAST[name]) > rest:
        raise _too_much(name, total)
    if given is not None:
        return _text(name, given)
    return _text(name, rest) if beside else total


def _given(container: Object, name: str) -> Decimal | None:
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {} if isinstance(resources, dict) else None
    if not isinstance(limits, dict):
        raise PackageInvalid("the pod template's resources are no maps")
    text = str(limits.get(name) or "")
    if not text:
        return None
    if not QUANTITY.fullmatch(text) or quantity(text) < LEAST[name]:
        raise PackageInvalid(
            f"the pod template's limit {name}: {safe_line(text, 40)} can't be", hint="write it like 500m"
        )
    return quantity(text)


def _too_much(name: str, total: str) -> Forbidden:
    return Forbidden(
        f"the containers of the pod template ask for more than the {total} of {name} that the pod may use",
        hint="resources= is for all containers of the pod together; kubernetes.max_cpu and max_memory bound it",
    )


def quantity(text: str) -> Decimal:
    """What `500m`, `2Gi` and the like stand for."""
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415 (its package takes a second to import)

    value: Decimal = parse_quantity(text)
    return value


def _text(name: str, value: Decimal) -> str:
    return f"{int(value * 1000)}m" if name == "cpu" else str(int(value))
