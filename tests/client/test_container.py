"""Programs as transforms, and pipelines, on the client's side: what is registered, and under which name."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fake_gateway import FakeGateway, fake_gateway

from shardgate import CaptureError, Client, InvalidName, wire
from shardgate.arguments import args_style
from shardgate.capture import capture
from shardgate.cli.main import app
from shardgate.container import name_of_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "resizer"},
    "spec": {
        "containers": [
            {
                "name": "server",
                "image": "registry/resize:1",
                "ports": [{"containerPort": 9000}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 9000}},
            }
        ]
    },
}


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as gateway:
        yield gateway


def registered(gateway: FakeGateway, uuid: str) -> wire.Container:
    manifest, function = wire.unpack_package(gateway.packages[uuid])
    assert (manifest.kind, function) == ("container", b"")
    assert manifest.container is not None
    return manifest.container


def test_an_image_is_registered_under_its_own_name(gateway: FakeGateway) -> None:
    client = Client(gateway.url)
    made = client.etl_from_image("registry:5000/team/resize:1.2", args=["--size", "64"], env={"B": "2", "A": "1"})
    assert made.name == "resize"
    assert registered(gateway, made.uuid) == wire.Container(
        image="registry:5000/team/resize:1.2", args=("--size", "64"), env={"A": "1", "B": "2"}
    )
    same = client.etl_from_image("registry:5000/team/resize:1.2", args=["--size", "64"], env={"A": "1", "B": "2"})
    assert same.uuid == made.uuid
    with pytest.raises(InvalidName):
        client.etl_from_image("x", "No Such Name")


def test_a_pod_says_its_name_port_and_health_path(gateway: FakeGateway) -> None:
    client = Client(gateway.url)
    made = client.etl_from_spec(POD, cache="never", resources={"cpu": "2"})
    container = registered(gateway, made.uuid)
    assert (made.name, container.port, container.health) == ("resizer", 9000, "/ready")
    assert container.pod == {"metadata": POD["metadata"], "spec": POD["spec"]}
    assert "cache=never" in gateway.requests[0][1]
    assert "resources=%7B" in gateway.requests[0][1]
    assert registered(gateway, client.etl_from_spec(POD, port=1234).uuid).port == 1234
    for broken in ({}, {"spec": {"containers": []}}, {"spec": 5}):
        with pytest.raises(CaptureError, match="no container"):
            client.etl_from_spec(broken)


def test_the_command_line_initialises_them(
    gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDGATE_ENDPOINT", gateway.url)
    spec = tmp_path / "pod.json"
    spec.write_text(json.dumps(POD))
    for words in (
        ["--command", "/opt/resize --port '{port}'", "--name", "resize", "--health", "/up"],
        ["--spec", str(spec)],
    ):
        assert run(monkeypatch, "etl", "init", *words) == 0
    command, pod = (registered(gateway, uuid) for uuid in capsys.readouterr().out.split())
    assert command.program(81) == ["/opt/resize", "--port", "81"]
    assert command.health == "/up"
    assert pod.port == 9000
    assert run(monkeypatch, "etl", "init") == 2
    assert "--image" in capsys.readouterr().err


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["shardgate", *words])
    with pytest.raises(SystemExit) as caught:
        app()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("image", "name"),
    [("resize", "resize"), ("a/b/My_Image:v1", "my-image"), ("r:5000/x@sha256:00", "x"), ("/opt/bin/t.py", "t-py")],
)
def test_an_image_has_a_fitting_name(image: str, name: str) -> None:
    assert name_of_image(image) == name


def test_pipelines_join_ids(gateway: FakeGateway) -> None:
    client = Client(gateway.url)
    a, b, c = (client.etl_from_image(name) for name in "abc")
    assert (a >> b >> c).uuid == (a >> (b >> c)).uuid == f"{a.uuid},{b.uuid},{c.uuid}"
    assert repr(a >> b) == f"Pipeline('{a.uuid},{b.uuid}')"


class Called:
    def __call__(self, sample: Any, args: str) -> Any:
        return sample


class Plain:
    def __call__(self, sample: Any) -> Any:
        return sample


@pytest.mark.parametrize(
    ("function", "style"),
    [
        (lambda sample: sample, "none"),
        (lambda sample, args: sample, "keyword"),
        (lambda sample, *, args="": sample, "keyword"),
        (lambda sample, options: sample, "positional"),
        (lambda sample, size=3: sample, "none"),
        (lambda args: args, "none"),
        (Called, "keyword"),
        (Called(), "keyword"),
        (Plain, "none"),
        (Plain(), "none"),
        (str, "none"),
    ],
)
def test_whether_a_function_takes_args_is_part_of_its_manifest(function: Any, style: str) -> None:
    assert args_style(function) == style
    manifest, package = capture(function, name="f")
    assert manifest.takes_args is (style != "none")
    assert wire.unpack_package(package)[0] == manifest
