"""What a container's manifest may say."""

from __future__ import annotations

from typing import Any

import pytest

from shardgate import wire
from shardgate_gateway.errors import PackageInvalid
from shardgate_gateway.etl.container.check import check_container


def template(**container: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"team": "vision"}}, "spec": {"containers": [{"image": "i", **container}]}}


@pytest.mark.parametrize(
    "container",
    [
        wire.Container(image="registry:5000/team/resize@sha256:0123"),
        wire.Container(command=("/opt/resize", "--port={port}")),
        wire.Container(
            pod=template(env=[{"name": "A", "value": "1"}], volumeMounts=[{"name": "v", "mountPath": "/v"}])
        ),
    ],
)
def test_what_can_run_is_taken(container: wire.Container) -> None:
    check_container(container)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"image": "not an image"}, "image can't be 'not an image'"),
        ({"image": "i", "port": 70000}, "port can't be 70000"),
        ({"image": "i", "port": "8000"}, "mixed up"),
        ({"image": "i", "health": "health"}, "health can't be 'health'"),
        ({"image": "i", "content_type": "text"}, "content_type can't be"),
        ({"image": "i", "env": {"A-B": "1"}}, "'A-B' is no name of a variable"),
        ({"image": "i", "command": ("a\0b",)}, "NUL"),
        ({"image": "i", "method": "post"}, "method"),
        ({}, "no image, no command and no pod"),
        ({"image": "i", "pod": template()}, "an image and a pod template"),
        ({"pod": {}}, "spec: Field required"),
        ({"pod": {"spec": {"containers": []}}}, "spec.containers"),
        ({"pod": {"spec": {"containers": ["resize"]}}}, "spec.containers.0"),
        ({"pod": template(env={"A": "1"})}, "spec.containers.0.env"),
        ({"pod": {**template(), "metadata": ["team"]}}, "metadata"),
    ],
)
def test_what_can_not_is_refused_with_the_field(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PackageInvalid) as refused:
        check_container(wire.Container(**values))
    assert complaint in refused.value.message
