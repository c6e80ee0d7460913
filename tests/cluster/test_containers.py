"""Programs of other languages in pods: an image with nothing in it but a Go binary, alone and behind a Python stage."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gateway_on_host import BUCKET, HostGateway, gateway_on_host
from PIL import Image

from cluster import wait_until
from shardgate import GatewayError, TransformFailed, WDTransform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.skipif(not (shutil.which("go") and shutil.which("buildah")), reason="needs go and buildah"),
]

GO = Path(__file__).parents[2] / "examples" / "container_go"


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example's, pushed to the cluster's registry."""
    folder = tmp_path_factory.mktemp("image")
    shutil.copy(GO / "Dockerfile", folder)
    environment = {**os.environ, "CGO_ENABLED": "0"}
    subprocess.run(["go", "build", "-o", folder / "thumbnails", "."], cwd=GO, env=environment, check=True)
    name = f"{cluster.registry}/thumbnails:test"
    subprocess.run(["buildah", "bud", "--isolation", "chroot", "-q", "-t", name, folder], check=True)
    subprocess.run(["buildah", "push", "-q", "--tls-verify=false", name], check=True)
    return name


@pytest.fixture(scope="module")
def gateway(
    cluster: Cluster, runtime_image: str, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostGateway]:
    settings = {"kubernetes.allowed_images": f'["{cluster.registry}/thumbnails*"]'}
    with (
        cluster.namespace("containers") as namespace,
        gateway_on_host(
            cluster, namespace, runtime_image, tmp_path_factory.mktemp("containers"), settings=settings
        ) as gateway,
    ):
        photo = io.BytesIO()
        Image.linear_gradient("L").resize((400, 300)).convert("RGB").save(photo, "JPEG")
        with tarfile.open(gateway.shards / "photos.tar", "w") as tar:
            for index in range(40):
                member = tarfile.TarInfo(f"{index:03d}.jpg")
                member.size = len(photo.getvalue())
                tar.addfile(member, io.BytesIO(photo.getvalue()))
        yield gateway


def sizes(shard: bytes) -> list[tuple[str, tuple[int, int]]]:
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        return [(name, Image.open(tar.extractfile(name)).size) for name in tar.getnames()]  # type: ignore[arg-type]


def test_an_image_is_a_transform_that_passes_pod_security_and_stands_in_pipelines(
    cluster: Cluster, gateway: HostGateway, image: str
) -> None:
    client = gateway.client
    made = client.etl_from_image(image, cache="never", content_type="application/x-tar")
    assert made.name == "thumbnails"
    small = made.get(BUCKET, "photos.tar", args={"size": 40})
    assert sizes(small) == [(f"{index:03d}.jpg", (40, 30)) for index in range(40)]
    [pod] = cluster.get("pods", namespace=gateway.namespace, selector="app.kubernetes.io/component=etl")
    assert pod["spec"]["containers"][0]["image"] == image

    with pytest.raises(TransformFailed, match="the container answered 400: args"):
        made.get(BUCKET, "photos.tar", args={"size": "wide"})

    def first_ten(sample: dict[str, Any]) -> dict[str, Any] | None:
        return sample if sample["__key__"] < "010" else None

    few = WDTransform(client, first_ten, wd_decoder="", cache="never")
    assert len(sizes((few >> made).get(BUCKET, "photos.tar"))) == 10
    assert sizes((made >> few).get(BUCKET, "photos.tar", args={"thumbnails": {"size": 20}}))[0][1] == (20, 15)
    made.delete()
    few.delete()


def test_a_health_path_that_is_not_there_is_told_while_it_starts(gateway: HostGateway, image: str) -> None:
    transforms = gateway.client.transforms
    said: list[dict[str, Any]] = []

    def told() -> bool:
        lost = [record for record in transforms.list() if record["name"] == "lost"]
        said[:] = [record for record in lost if "does not answer" in record["message"]]
        return bool(said)

    def start() -> None:
        with pytest.raises(GatewayError, match="was stopped"):
            gateway.client.etl_from_image(image, "lost", health="/nowhere")

    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start)
        print(f"told after {wait_until(told, 60, 'words about the health path'):.1f} s")
        assert "it runs and does not answer: Startup probe failed: HTTP probe failed" in said[0]["message"]
        assert "health path" in said[0]["hint"]
        transforms.stop("lost")
        starting.result(60)
    transforms.delete("lost")


def test_a_pod_template_is_a_transform_and_what_keeps_it_from_starting_is_told(
    cluster: Cluster, gateway: HostGateway, image: str
) -> None:
    client = gateway.client
    container = {
        "name": "server",
        "image": image,
        "ports": [{"containerPort": 9000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 9000}},
    }
    made = client.etl_from_spec({"metadata": {"name": "spec"}, "spec": {"containers": [container]}}, cache="never")
    assert made.name == "spec"
    assert sizes(made.get(BUCKET, "photos.tar"))[0][1] == (64, 48)
    made.delete()
    with pytest.raises(TransformFailed, match=r"(?i)image"):
        client.etl_from_image(f"{cluster.registry}/thumbnails:missing", "missing")
    with pytest.raises(GatewayError, match="something-else:1"):
        client.etl_from_image(f"{cluster.registry}/something-else:1", "else")
