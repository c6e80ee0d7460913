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


ADDRESSES = [
    "evil @ https://evil.example/evil-1.0.tar.gz",
    "torch@git+https://evil.example/torch",
    "evil[x] @ file:///etc/passwd ; python_version > '3'",
    "evil @ ../evil",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("image", ["", "r/slim:1", "team/own:2"])
def test_a_requirement_is_no_address_unless_the_operator_allows_it(address: str, image: str) -> None:
    for setting in ("wheels", "sources"):
        with pytest.raises(Forbidden, match="which is an address") as refused:
            policy(requirements=setting, allowed_images=["team/*"]).check(manifest(address), options(image=image))
        assert "kubernetes.requirements" in refused.value.hint
    policy(requirements="addresses", allowed_images=["team/*"]).check(manifest(address), options(image=image))


@pytest.mark.parametrize("image", ["", "r/slim:1", "team/own:2"])
@pytest.mark.parametrize(
    "text", ["", "a b", "./evil", "--index-url=x", "https://e/x.whl", "a==1\n--pre", "a\0", "\ud800"]
)
def test_a_malformed_requirement_is_refused_whatever_the_image(text: str, image: str) -> None:
    with pytest.raises(PackageInvalid, match="requirement "):
        policy(allowed_images=["team/*"]).check(manifest(text), options(image=image))


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


C: dict[str, Any] = {"name": "c", "image": "team/x"}


def with_spec(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [C], **fields}}


def beside(**fields: Any) -> dict[str, Any]:
    return with_spec(containers=[C, {**C, **fields}])


@pytest.mark.parametrize(
    ("template", "field"),
    [
        (beside(ports=[{"hostPort": 80}]), "containers.1.ports.0.hostPort"),
        (beside(ports=[{"hostIP": "1.2.3.4"}]), "containers.1.ports.0.hostIP"),
        (beside(lifecycle={"preStop": {"httpGet": {"host": "h"}}}), "containers.1.lifecycle.preStop.httpGet"),
        (beside(lifecycle={"postStart": {"tcpSocket": {"host": "h"}}}), "containers.1.lifecycle.postStart.tcpSocket"),
        (beside(livenessProbe={"httpGet": {"host": "h"}}), "containers.1.livenessProbe.httpGet.host"),
        (beside(startupProbe={"tcpSocket": {"host": "h"}}), "containers.1.startupProbe.tcpSocket.host"),
        (beside(volumeMounts=[{"mountPropagation": "Bidirectional"}]), "volumeMounts.0.mountPropagation"),
        (beside(volumeDevices=[{"name": "v"}]), "containers.1.volumeDevices"),
        (beside(resizePolicy=[{}]), "containers.1.resizePolicy"),
        (beside(env=[{"name": "A", "valueFrom": {"fileKeyRef": {"key": "k"}}}]), "env.0.valueFrom.fileKeyRef"),
        (with_spec(initContainers=[{**C, "ports": [{"hostPort": 80}]}]), "initContainers.0.ports.0.hostPort"),
        (with_spec(runtimeClassName="kata"), "runtimeClassName"),
        (with_spec(dnsConfig={"nameservers": ["1.2.3.4"]}), "dnsConfig"),
        (with_spec(dnsPolicy="Default"), "dnsPolicy"),
        (with_spec(hostAliases=[{"ip": "1.2.3.4"}]), "hostAliases"),
        (with_spec(hostname="db"), "hostname"),
        (with_spec(subdomain="db"), "subdomain"),
        (with_spec(ephemeralContainers=[C]), "ephemeralContainers"),
        (with_spec(affinity={"podAntiAffinity": {"a": 1}}), "affinity.podAntiAffinity"),
        (with_spec(madeUpNextYear=1), "madeUpNextYear"),
        (with_spec() | {"metadata": {"finalizers": ["x/y"]}}, "metadata.finalizers"),
        (with_spec() | {"metadata": {"labels": {"app": "web"}}}, "labels 'app'"),
        (with_spec() | {"metadata": {"annotations": {"vault/inject": "true"}}}, "annotations 'vault/inject'"),
    ],
)
def test_a_pod_template_has_no_field_but_those_that_are_allowed(template: dict[str, Any], field: str) -> None:
    rules = policy(allowed_images=["team/*"], allowed_labels=["team"], allowed_annotations=["team/*"])
    with pytest.raises(Forbidden, match="may not set") as refused:
        rules.check(manifest(container=wire.Container(pod=template)), options())
    assert field in refused.value.message


def test_a_pod_template_may_have_what_a_server_needs() -> None:
    probe = {
        "httpGet": {"path": "/health", "port": 1, "httpHeaders": [{"name": "A", "value": "b"}]},
        "periodSeconds": 1,
    }
    server = {
        **C,
        "command": ["a"],
        "workingDir": "/",
        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "B", "value": ""}],
        "envFrom": [{"configMapRef": {"name": "team-c"}}, {"secretRef": None}],
        "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP", "hostPort": 0}],
        "lifecycle": {"preStop": {"exec": {"command": ["sync"]}}},
        "livenessProbe": probe,
        "readinessProbe": {"grpc": {"port": 1}},
        "startupProbe": None,
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x", "readOnly": True}],
    }
    spec = {
        "containers": [server, C],
        "initContainers": [{**C, "restartPolicy": "Always"}],
        "nodeSelector": {"disk": "ssd"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
        "volumes": [{"name": "v", "configMap": {"name": "team-c"}}],
        "terminationGracePeriodSeconds": 5,
        "restartPolicy": "Always",
        "nodeName": "",
    }
    metadata = {"name": "server", "labels": {"team": "vision"}, "annotations": None}
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    rules = policy(allowed_images=["team/*"], allowed_labels=["team"], allowed_config_maps=["team-*"])
    rules.check(manifest(container=wire.Container(pod=template)), options())


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{**C, "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "admin"}}}]}]},
        {"containers": [C], "initContainers": [{**C, "envFrom": [{"configMapRef": {"name": "admin"}}]}]},
        {"containers": [C], "volumes": [{"name": "v", "configMap": {"name": "admin"}}]},
    ],
)
def test_a_pod_template_has_no_config_map_but_those_that_are_allowed(spec: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="may not have the ConfigMap 'admin'") as refused:
        policy(allowed_images=["team/*"]).check(manifest(container=wire.Container(pod={"spec": spec})), options())
    assert "kubernetes.allowed_config_maps" in refused.value.hint


@pytest.mark.parametrize(
    "container",
    [
        {"ports": {"containerPort": 1}},
        {"ports": ["80"]},
        {"livenessProbe": "exec"},
        {"resources": ["cpu"]},
        {"resources": {"limits": "1"}},
        {"resources": {"limits": {"cpu": "NaN"}}},
        {"resources": {"limits": {"memory": "-1"}}},
        {"resources": {"limits": {"memory": "1e400"}}},
        {"volumeMounts": {}},
    ],
)
def test_a_pod_template_of_the_wrong_shape_is_refused(container: dict[str, Any]) -> None:
    template = {"spec": {"containers": [C, {**C, **container}]}}
    with pytest.raises(PackageInvalid, match="the pod template's"):
        policy(allowed_images=["team/*"]).check(manifest(container=wire.Container(pod=template)), options())


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
    assert rules.requested_cpu(rules.limits(options()).cpu) == "750m"
    assert rules.workers(options(), 0) == 2
    assert rules.workers(options(), 3) == 3
    assert rules.workers(options(workers=5), 3) == 5
    assert rules.replicas(options()) == (0, 4)
    assert rules.replicas(options(replicas=2)) == (2, 2)
    assert rules.replicas(options(min_replicas=1, max_replicas=3)) == (1, 3)
    gpu = rules.limits(options(resources={"nvidia.com/gpu": 1, "cpu": 2}))
    assert (gpu.cpu, gpu.gpus) == ("2", 1)
