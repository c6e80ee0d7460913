"""Which Deployments follow demand, and within which bounds."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.fleet import Fleet
from shardgate_gateway.etl.kubernetes.routing import Here

if TYPE_CHECKING:
    from shardgate_gateway.etl.kubernetes.scale import Target

SCALING = {"min": 2, "max": 5, "workers": 3}


def deployment(name: str, **notes: str) -> dict[str, Any]:
    known = {names.ANNOTATION_ID: f"{name}-0123456789abcdef", names.ANNOTATION_SCALING: json.dumps(SCALING)}
    metadata = {
        "name": name,
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": known | notes,
    }
    return {"metadata": metadata, "spec": {"replicas": 2}}


def targets(*deployments: dict[str, Any]) -> dict[str, Target]:
    watched: Any = SimpleNamespace(
        slices=SimpleNamespace(subscribe=lambda _: None),
        deployments=SimpleNamespace(
            subscribe=lambda _: None, items={each["metadata"]["name"]: each for each in deployments}
        ),
    )
    api: Any = None
    fleet = Fleet(
        api, watched, here=Here(""), max_waiting=1, idle_seconds=600, superseded_idle_seconds=30, calm_seconds=60
    )
    return {target.name: target for target in fleet.targets()}


def test_a_version_whose_name_means_a_newer_one_has_no_pods_that_stay_and_ends_soon() -> None:
    found = targets(deployment("new"), deployment("old", **{names.ANNOTATION_SUPERSEDED: "2026-01-01T00:00:00Z"}))
    assert (found["new"].bounds.minimum, found["new"].bounds.idle_seconds) == (2, 600)
    assert (found["old"].bounds.minimum, found["old"].bounds.idle_seconds) == (0, 30)
    assert found["old"].bounds.maximum == SCALING["max"]


def test_what_somebody_stopped_does_not_follow_demand() -> None:
    assert targets(deployment("stopped", **{names.ANNOTATION_STOPPED: "2026-01-01T00:00:00Z"})) == {}
