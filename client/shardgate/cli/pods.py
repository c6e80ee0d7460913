"""Options of `shardgate etl init` about pods, as a user types them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from shardgate.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate.pods import PodOptions

_PANEL = "In a cluster"

Cpu: TypeAlias = Annotated[str, typer.Option(help="CPUs of a pod, like 2 or 500m.", rich_help_panel=_PANEL)]
Memory: TypeAlias = Annotated[str, typer.Option(help="Memory of a pod, like 4Gi.", rich_help_panel=_PANEL)]
Gpus: TypeAlias = Annotated[int, typer.Option(min=0, help="GPUs of a pod.", rich_help_panel=_PANEL)]
Replicas: TypeAlias = Annotated[
    str, typer.Option(metavar="N|MIN-MAX", help="Pods: so many always, or from as demand goes.", rich_help_panel=_PANEL)
]
NodeSelector: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="LABEL=VALUE", help="Nodes that fit.", rich_help_panel=_PANEL)
]
Tolerate: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY[=VALUE][:EFFECT]", help="Taints that don't matter.", rich_help_panel=_PANEL),
]
Env: TypeAlias = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment of the workers.")]
Secret: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Secrets to be put there, too.", rich_help_panel=_PANEL)
]


def pod_options(
    cpu: str = "",
    memory: str = "",
    gpus: int = 0,
    replicas: str = "",
    node_selector: Iterable[str] | None = None,
    tolerate: Iterable[str] | None = None,
    env: Iterable[str] | None = None,
    secret: Iterable[str] | None = None,
) -> PodOptions:
    """The options that were given, as the Python API takes them.

    Raises:
        InvalidName: One of them is not of its form.
    """
    resources = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus}
    given: dict[str, Any] = {
        "resources": {name: value for name, value in resources.items() if value},
        **_replicas(replicas),
        "node_selector": _pairs("--node-selector", node_selector),
        "tolerations": [_toleration(text) for text in tolerate or ()],
        "env": _pairs("--env", env),
        "secrets": list(secret or ()),
    }
    options: PodOptions = {name: value for name, value in given.items() if value}  # type: ignore[assignment]
    return options


def _replicas(text: str) -> dict[str, int]:
    fewest, dash, most = text.partition("-")
    try:
        if dash:
            return {"min_replicas": int(fewest), "max_replicas": int(most)}
        return {"replicas": int(text)} if text else {}
    except ValueError:
        raise InvalidName(f"--replicas {text}", hint="write it like 2, or like 0-8") from None


def _pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise InvalidName(f"{option} {name}", hint=f"write it like {option} NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _toleration(text: str) -> dict[str, str]:
    taint, _, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    found = {"key": key, "operator": "Equal", "value": value} if equals else {"key": key, "operator": "Exists"}
    return found | ({"effect": effect} if effect else {})
