"""The images keep what their Dockerfiles promise: no root, nothing written, nothing to build with, and small."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from cluster_images import MANIFESTS

from cluster import ready, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

GATEWAY_MEGABYTES = 250
RUNTIME_MEGABYTES = 300
USER = 65532
BUILD_TOOLS = ["cc", "gcc", "g++", "make", "ld", "strip", "git"]
NEVER_IN_A_GATEWAY = ["torch", "torchvision", "webdataset", "numpy", "PIL"]


@pytest.fixture(scope="module")
def room(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace("images") as name:
        yield name


@pytest.fixture(params=["gateway", "runtime"])
def reference(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_image"))


def pod(name: str, image: str, command: list[str] | None = None, **container: Any) -> dict[str, Any]:
    """A pod as the strictest policy wants it, with a root that can't be written to."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    **({"command": command} if command else {}),
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "data", "mountPath": path} for path in ("/data", "/tmp")],
                    **container,
                }
            ],
        },
    }


def output_of(cluster: Cluster, room: str, image: str, *command: str) -> str:
    """What a command prints in a pod of an image, after it ended well."""
    name = "run-" + re.sub(r"\W+", "-", image.rpartition("shardgate-")[2]) + f"-{abs(hash(command)):x}"
    cluster.apply(pod(name, image, list(command)), namespace=room)

    def phase() -> str:
        return str(cluster.get(f"pod/{name}", namespace=room)[0]["status"].get("phase"))

    wait_until(lambda: phase() in {"Succeeded", "Failed"}, 120, f"{command[0]} to end in {image}")
    printed = cluster.kubectl("logs", name, namespace=room)
    assert phase() == "Succeeded", printed
    return printed


def config_of(image: str) -> dict[str, Any]:
    """What a registry says of an image: its user, entry point and labels."""
    registry, _, rest = image.partition("/")
    name, _, tag = rest.rpartition(":")
    with urlopen(Request(f"http://{registry}/v2/{name}/manifests/{tag}", headers={"Accept": MANIFESTS})) as answer:
        digest = json.load(answer)["config"]["digest"]
    with urlopen(f"http://{registry}/v2/{name}/blobs/{digest}") as answer:
        config: dict[str, Any] = json.load(answer)["config"]
    return config


def test_an_image_says_what_it_is_and_that_its_user_is_not_root(cluster: Cluster, reference: str) -> None:
    if not cluster.registry:
        pytest.skip("images are loaded into this cluster without a registry")

    config = config_of(reference)

    assert config["User"] == f"{USER}:{USER}"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] in reference
    assert labels["licenses"] == "Apache-2.0"
    assert {"description", "version", "revision"} <= labels.keys()


def test_nothing_is_left_in_an_image_that_built_it(cluster: Cluster, room: str, reference: str) -> None:
    look = (
        "import os, shutil, sys; print([t for t in sys.argv[1:] if shutil.which(t) or os.path.exists(t)], os.getuid())"
    )

    caches = ["/root/.cache", "/tmp/pip-ephem-wheel-cache", "/build", "/opt/shardgate/bin/pip"]
    printed = output_of(cluster, room, reference, "python", "-c", look, *BUILD_TOOLS, *caches)

    assert printed.split() == ["[]", str(USER)]


def test_an_image_is_as_small_as_it_says(cluster: Cluster, room: str, reference: str) -> None:
    limit = GATEWAY_MEGABYTES if "gateway" in reference else RUNTIME_MEGABYTES

    printed = output_of(cluster, room, reference, "sh", "-c", "du -sxB1000000 --apparent-size / 2>/dev/null || true")

    megabytes = int(printed.split()[0])
    print(f"{reference.rpartition('/')[2]}: {megabytes} MB unpacked, {limit} MB allowed")
    assert 50 < megabytes <= limit


def test_the_gateways_image_has_nothing_that_user_code_needs(cluster: Cluster, room: str, gateway_image: str) -> None:
    look = "import importlib.util as u, sys; print([name for name in sys.argv[1:] if u.find_spec(name)])"

    printed = output_of(cluster, room, gateway_image, "python", "-c", look, *NEVER_IN_A_GATEWAY, "shardgate_gateway")

    assert printed.strip() == "['shardgate_gateway']"


def test_a_gateway_serves_with_a_root_that_cannot_be_written_to(
    cluster: Cluster, room: str, gateway_image: str
) -> None:
    command = ["serve", "--host", "0.0.0.0", "--cache-dir", "/data/cache", "--state-dir", "/data/state"]
    environment = [{"name": "SHARDGATE_SERVE__TOKEN", "value": "for-this-test-only"}]
    probe = {"httpGet": {"path": "/readyz", "port": 51080}, "periodSeconds": 1, "failureThreshold": 60}

    cluster.apply(pod("gateway", gateway_image, args=command, env=environment, readinessProbe=probe), namespace=room)

    def is_ready() -> bool:
        found = cluster.get("pod/gateway", namespace=room)[0]
        assert found["status"].get("phase") in {None, "Pending", "Running"}, cluster.kubectl(
            "logs", "gateway", namespace=room
        )
        return ready(found)

    print(f"ready after {wait_until(is_ready, 120, 'the gateway to be ready'):.1f} s, pull included")


def test_the_runtime_starts_with_a_root_that_cannot_be_written_to(
    cluster: Cluster, room: str, runtime_image: str
) -> None:
    script = "import numpy, PIL, webdataset, shardgate_runtime.worker; print(42)"

    printed = output_of(
        cluster, room, runtime_image, "sh", "-c", f"python -m shardgate_runtime --help && python -c '{script}'"
    )

    assert "--transform-id" in printed
    assert printed.endswith("42\n")


@pytest.mark.slow  # gigabytes are pulled, and built before that on a new machine
def test_the_image_with_torch_is_the_runtime_and_torch(cluster: Cluster, room: str, torch_image: str) -> None:
    script = "import torch, torchvision, shardgate_runtime; print(torch.ones(2).sum().item(), torchvision.__name__)"

    printed = output_of(cluster, room, torch_image, "python", "-c", script)

    assert printed.split() == ["2.0", "torchvision"]
