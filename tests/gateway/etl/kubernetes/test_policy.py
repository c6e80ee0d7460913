"""What owners get of what the operator has, and what they may not have."""

from __future__ import annotations

from typing import Any

import pytest

from shardgate import wire
from shardgate_gateway.errors import Forbidden, PackageInvalid
from shardgate_gateway.etl.kubernetes.policy import Policy
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.settings import KubernetesSettings

IMAGES = [
    {"image": "r/slim:1", "python": "3.11"},
    {"image": "r/torch:1", "python": "3.11", "provides": ["torch", "torchvision"]},
    {"image": "r/jax:1", "python": "3.11", "provides": ["jax"]},
    {"image": "r/slim313:1", "python": "3.13"},
]


def policy(**settings: Any) -> Policy:
    return Policy(KubernetesSettings.model_validate({"images": IMAGES, **settings}))


def options(**values: Any) -> TransformOptions:
    return TransformOptions.parse(values)


def manifest(*requirements: str, python: str = "3.11", container: wire.Container | None = None) -> wire.Manifest:
    return wire.Manifest("t", python=python, requirements=requirements, container=container)


@pytest.mark.parametrize(
    ("requirements", "image"),
    [
        ((), "r/slim:1"),
        (("pillow==11.0",), "r/slim:1"),
        (("torch==2.6.0", "numpy==2.0"), "r/torch:1"),
        (("Torchvision>=0.21",), "r/torch:1"),
        (("jax==0.5",), "r/jax:1"),
    ],
)
def test_the_image_is_the_one_that_has_what_is_required(requirements: tuple[str, ...], image: str) -> None:
    assert policy().image(manifest(*requirements), options()) == image


def test_a_python_that_no_image_has_is_refused_with_both_versions() -> None:
    with pytest.raises(PackageInvalid, match=r"pickled by Python 3\.12, and .* images for 3\.11 and 3\.13"):
        policy().check(manifest(python="3.12"), options())


def test_an_image_of_the_owners_has_to_be_allowed() -> None:
    with pytest.raises(Forbidden, match="may not run the image 'evil/miner:1'") as refused:
        policy().check(manifest(), options(image="evil/miner:1"))
    assert "none (the operator's setting kubernetes.allowed_images)" in refused.value.hint
    lenient = policy(allowed_images=["team/*"])
    assert lenient.image(manifest(), options(image="team/own:2")) == "team/own:2"
    assert policy().image(manifest(), options(image="r/torch:1")) == "r/torch:1"


def test_a_pod_template_names_only_allowed_images_secrets_and_volumes() -> None:
    def check(**spec: Any) -> None:
        container = wire.Container(pod={"spec": {"containers": [{"name": "c", "image": "team/x"}], **spec}})
        policy(allowed_images=["team/*"], allowed_secrets=["team-*"]).check(manifest(container=container), options())

    secret = {"secretKeyRef": {"name": "admin", "key": "k"}}
    check(volumes=[{"name": "scratch", "emptyDir": {}}, {"name": "k", "secret": {"secretName": "team-key"}}])
    with pytest.raises(Forbidden, match="may not run the image 'evil/init'"):
        check(initContainers=[{"name": "i", "image": "evil/init"}])
    with pytest.raises(Forbidden, match="may not have the secret 'admin'"):
        check(containers=[{"name": "c", "image": "team/x", "env": [{"name": "K", "valueFrom": secret}]}])
    with pytest.raises(Forbidden, match="may not have the secret 'admin'"):
        check(containers=[{"name": "c", "image": "team/x", "envFrom": [{"secretRef": {"name": "admin"}}]}])
    with pytest.raises(Forbidden, match="may not have the secret 'admin'"):
        check(volumes=[{"name": "v", "secret": {"secretName": "admin"}}])
    with pytest.raises(Forbidden, match="may not have the secret 'admin'"):
        check(imagePullSecrets=[{"name": "admin"}])
    with pytest.raises(Forbidden, match="may not have the volume claim 'database'") as refused:
        check(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "database"}}])
    assert "none (the operator's setting kubernetes.allowed_claims)" in refused.value.hint
    for field in ("nodeName", "priorityClassName", "schedulerName", "resourceClaims"):
        with pytest.raises(Forbidden, match=f"may not set {field}"):
            check(**{field: ["x"]})
    for kind in ("hostPath", "projected", "csi"):
        with pytest.raises(Forbidden, match=f"volume 'v' of kind {kind}"):
            check(volumes=[{"name": "v", kind: {}, "secret": {"secretName": "team-key"}}])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"resources": {"cpu": "65"}}, "cpu 65 is more than the 64"),
        ({"resources": {"memory": "300Gi"}}, "memory 300Gi is more than the 256Gi"),
        ({"resources": {"cpu": "0"}}, "cpu 0 is nothing"),
        ({"resources": {"nvidia.com/gpu": 9}}, "9 GPUs are more than the 8"),
        ({"replicas": 17}, "may have 16 pods at most"),
        ({"max_replicas": 17}, "may have 16 pods at most"),
        ({"secrets": ["admin"]}, "may not have the secret 'admin'"),
    ],
)
def test_more_than_the_operator_allows_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Forbidden, match=words) as refused:
        policy().check(manifest(), options(**asked))
    assert "kubernetes." in refused.value.hint or refused.value.hint.startswith("leave it out")


def test_what_the_owner_leaves_out_is_the_operators() -> None:
    rules = policy(cpu="1500m", memory="3Gi", cpu_request_share=0.5, max_replicas=4)
    assert rules.limits(options()).memory == "3Gi"
    assert rules.requested_cpu(options()) == "750m"
    assert rules.workers(options(), 0) == 2
    assert rules.workers(options(), 3) == 3
    assert rules.workers(options(workers=5), 3) == 5
    assert rules.replicas(options()) == (0, 4)
    assert rules.replicas(options(replicas=2)) == (2, 2)
    assert rules.replicas(options(min_replicas=1, max_replicas=3)) == (1, 3)
    gpu = rules.limits(options(resources={"nvidia.com/gpu": 1, "cpu": 2}))
    assert (gpu.cpu, gpu.gpus) == ("2", 1)
