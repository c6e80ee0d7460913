"""What is applied: every pod is bounded and without rights, whatever its owner wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from shardgate import wire
from shardgate_gateway.errors import Forbidden
from shardgate_gateway.etl.kubernetes.manifests import Manifests
from shardgate_gateway.etl.kubernetes.pod_limits import quantity
from shardgate_gateway.etl.kubernetes.pod_template import kept
from shardgate_gateway.etl.kubernetes.policy import Policy
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.etl.transform_record import TransformRecord
from shardgate_gateway.settings import EtlSettings, KubernetesSettings

ID = "train-0123456789abcdef"
IMAGES = [{"image": "r/slim:1", "python": "3.11"}]
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def record(container: wire.Container | None = None, *requirements: str, **options: Any) -> TransformRecord:
    kind: wire.Kind = "sample" if container is None else "container"
    manifest = wire.Manifest("train", kind=kind, python="3.11", requirements=requirements, container=container)
    return TransformRecord(ID, "train", "d" * 64, manifest, TransformOptions.parse(options), 1, datetime.now(UTC))


TEAM: dict[str, Any] = {"allowed_images": ["team/*"], "allowed_labels": ["*"], "allowed_config_maps": ["server"]}


def deployment(of: TransformRecord, **settings: Any) -> dict[str, Any]:
    kubernetes = KubernetesSettings.model_validate({"images": IMAGES, **settings})
    return Manifests(kubernetes, EtlSettings(), Policy(kubernetes), "http://gateway/", None).deployment(of)


def pod(of: TransformRecord, **settings: Any) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(of, **settings)["spec"]["template"]["spec"]
    return spec


def total_limits(spec: dict[str, Any]) -> dict[str, Decimal]:
    """What the pod as a whole may use, as Kubernetes adds it up."""
    most: dict[str, Decimal] = {}
    lasting: dict[str, Decimal] = {}

    def add(sums: dict[str, Decimal], container: dict[str, Any]) -> dict[str, Decimal]:
        limits = {name: quantity(text) for name, text in container["resources"]["limits"].items()}
        return {name: sums.get(name, Decimal(0)) + limits.get(name, Decimal(0)) for name in sums | limits}

    for init in spec.get("initContainers") or ():
        together = add(lasting, init)
        if init.get("restartPolicy") == "Always":
            lasting = together
        most = {name: max(most.get(name, Decimal(0)), value) for name, value in together.items()}
    for container in spec["containers"]:
        lasting = add(lasting, container)
    return {name: max(most.get(name, Decimal(0)), value) for name, value in lasting.items()}


def variables(container: dict[str, Any]) -> dict[str, Any]:
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names)), "server-side apply takes no name twice"
    return {variable["name"]: variable.get("value") for variable in container["env"]}


HOSTILE = {
    "metadata": {"labels": {"team": "vision", "app.kubernetes.io/component": "gateway"}},
    "spec": {
        "hostNetwork": True,
        "hostPID": True,
        "serviceAccountName": "shardgate",
        "automountServiceAccountToken": True,
        "securityContext": {"runAsUser": 0},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            {
                "name": "server",
                "image": "team/server:1",
                "securityContext": {"privileged": True},
                "resources": {"limits": {"memory": "900Gi"}},
                "env": [{"name": "PORT", "value": "1"}, {"name": "DEPTH", "value": "3"}],
                "envFrom": [{"configMapRef": {"name": "server"}}],
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
            },
            {"name": "beside", "image": "team/beside:1", "securityContext": {"privileged": True}},
        ],
        "initContainers": [{"name": "before", "image": "team/before:1"}],
    },
}


@pytest.mark.parametrize(
    "container",
    [None, wire.Container(image="team/server:1"), wire.Container(pod=HOSTILE)],
    ids=["ours", "image", "pod"],
)
def test_every_container_is_bounded_and_without_rights(container: wire.Container | None) -> None:
    of = record(container, resources={"cpu": "2", "memory": "3Gi", "nvidia.com/gpu": 1})
    spec = pod(of, **TEAM)
    for each in [*spec["containers"], *spec.get("initContainers", ())]:
        assert each["securityContext"] == RESTRICTED
        assert each["resources"]["limits"].keys() >= {"cpu", "memory", "ephemeral-storage"}
    whole = {"cpu": Decimal(2), "memory": Decimal(3 << 30), "ephemeral-storage": Decimal(8 << 30)}
    assert total_limits(spec) == {**whole, "nvidia.com/gpu": Decimal(1)}
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["serviceAccountName"] == "default"
    assert spec["automountServiceAccountToken"] is False
    assert not any(spec[own] for own in ("hostNetwork", "hostPID", "hostIPC"))
    assert spec["securityContext"]["runAsUser"] == 65532
    assert all(volume["emptyDir"].get("sizeLimit") == "8Gi" for volume in spec["volumes"] if volume["name"] == "tmp")
    labels = deployment(of, **TEAM)["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "etl"


def limited(**limits: str) -> dict[str, Any]:
    return {"resources": {"limits": limits}}


@pytest.mark.parametrize(
    ("others", "inits"),
    [
        ([{}] * 9, []),
        ([limited(cpu="500m"), limited(memory="1Gi", cpu="1500m"), {}], [{}]),
        ([{}], [{"restartPolicy": "Always"}, {}, {"restartPolicy": "Always"} | limited(cpu="1")]),
        ([], [limited(cpu="3"), limited(memory="64Mi")]),
    ],
    ids=["ten", "some-say", "lasting-inits", "inits"],
)
def test_the_containers_of_a_pod_use_together_what_one_pod_may(
    others: list[dict[str, Any]], inits: list[dict[str, Any]]
) -> None:
    names = iter("abcdefghijklmnop")
    containers, before = (
        [{"name": next(names), "image": "i", **each} for each in group] for group in ([{}, *others], inits)
    )
    template = {"spec": {"containers": containers, "initContainers": before}}
    of = record(wire.Container(pod=template), resources={"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": 8})
    total = total_limits(pod(of, allowed_images=["i"]))
    assert total["cpu"] <= 4
    assert total["memory"] <= 8 << 30
    assert total["ephemeral-storage"] <= 8 << 30
    assert total["nvidia.com/gpu"] == 8


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{}, limited(cpu="4")]},
        {"containers": [{}, limited(memory="5Gi"), limited(memory="3Gi")]},
        {"containers": [{}], "initContainers": [limited(cpu="5")]},
        {"containers": [{}], "initContainers": [{"restartPolicy": "Always"} | limited(cpu="3"), limited(cpu="2")]},
    ],
)
def test_containers_that_want_more_than_their_pod_may_have_are_refused(spec: dict[str, Any]) -> None:
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        container |= {"name": "c", "image": "i"}
    of = record(wire.Container(pod={"spec": spec}), resources={"cpu": "4", "memory": "8Gi"})
    rules = Policy(KubernetesSettings.model_validate({"images": IMAGES, "allowed_images": ["i"]}))
    with pytest.raises(Forbidden, match="that the pod may use"):
        rules.check(of.manifest, of.options)
    with pytest.raises(Forbidden, match="that the pod may use"):
        pod(of, allowed_images=["i"])


def test_a_field_that_nobody_allowed_never_reaches_the_cluster() -> None:
    """Also of a template that was registered before there was such a rule."""
    hostile = {
        "metadata": {"labels": {"app": "web", "team": "vision"}, "annotations": {"k8s.v1.cni.cncf.io/networks": "x"}},
        "spec": {
            "runtimeClassName": "x-evil",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x-evil"]}],
            "dnsConfig": {"nameservers": ["x-evil"]},
            "hostname": "x-evil",
            "madeUpNextYear": "x-evil",
            "affinity": {"podAntiAffinity": {"x-evil": []}},
            "volumes": [{"name": "v", "hostPath": {"path": "/x-evil"}}],
            "containers": [
                {"name": "c", "image": "i"},
                {
                    "name": "d",
                    "image": "i",
                    "ports": [{"containerPort": 1, "hostPort": 1, "hostIP": "x-evil"}],
                    "lifecycle": {"preStop": {"httpGet": {"host": "x-evil", "port": 1}}},
                    "livenessProbe": {"tcpSocket": {"host": "x-evil", "port": 1}},
                    "readinessProbe": {"httpGet": {"host": "x-evil", "port": 1}},
                    "volumeDevices": [{"name": "x-evil"}],
                },
            ],
        },
    }
    with pytest.raises(Forbidden, match="may not"):
        deployment(record(wire.Container(pod=hostile)), allowed_images=["i"])
    template = kept(hostile, ["team"], [])
    assert "x-evil" not in json.dumps(template)
    assert "hostP" not in json.dumps(template)
    assert template["spec"]["containers"][1]["ports"] == [{"containerPort": 1}]
    assert template["metadata"] == {"labels": {"team": "vision"}, "annotations": {}}


def test_what_a_template_says_beside_that_stays() -> None:
    spec = pod(record(wire.Container(pod=HOSTILE, port=9000), secrets=["team-key"]), **TEAM)
    server = spec["containers"][0]
    assert (server["name"], server["image"]) == ("server", "team/server:1")
    assert variables(server).items() >= {"PORT": "9000", "DEPTH": "3", "SHARDGATE_TRANSFORM_ID": ID}.items()
    assert server["envFrom"] == [{"configMapRef": {"name": "server"}}, {"secretRef": {"name": "team-key"}}]
    assert server["volumeMounts"] == [{"name": "scratch", "mountPath": "/tmp"}], "one volume per path"
    assert spec["tolerations"][0] == {"key": "gpu", "operator": "Exists"}


def test_a_pod_leaves_a_lost_node_soon_unless_its_owner_says_otherwise() -> None:
    def tolerations(*given: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pod(record(tolerations=list(given)))["tolerations"]
        return found

    patient = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 900}
    assert [toleration["tolerationSeconds"] for toleration in tolerations()] == [5, 5]
    assert [toleration["tolerationSeconds"] for toleration in tolerations(patient)] == [900, 5]
    assert tolerations({"operator": "Exists"}) == [{"operator": "Exists"}]


def test_the_token_is_a_file_and_the_package_an_address() -> None:
    spec = pod(record(None, "einops==0.8"))
    runtime = spec["containers"][0]
    flags = dict(zip(runtime["args"][::2], runtime["args"][1::2], strict=True))
    assert flags["--package-url"] == f"http://gateway/v1/transforms/{ID}/package"
    assert flags["--environment-url"].startswith("http://gateway/v1/environments/")
    mounts = {mount["name"]: mount for mount in runtime["volumeMounts"]}
    assert flags["--token-file"].startswith(mounts["token"]["mountPath"])
    assert mounts["token"]["readOnly"]
    assert len(json.dumps(runtime["env"])) < 1000, "nothing that grows with the package"


def test_pods_can_tell_which_version_of_their_secrets_they_have() -> None:
    """By the names of files: what is in them comes by the environment, and is told as a digest under a key."""
    spec = pod(record(None, secrets=["api", "db"]))
    runtime = spec["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in runtime["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"] for volume in spec["volumes"] if volume["name"].startswith("secret-")}
    assert [secrets[name]["secretName"] for name in ("secret-0", "secret-1")] == ["api", "db"]
    folder = variables(runtime)["SHARDGATE_SECRETS"]
    assert all(mounts[name].startswith(f"{folder}/") for name in secrets)
    assert variables(runtime)["SHARDGATE_SECRETS_KEY"] == f"{mounts['token']}/secrets-key"
    kubernetes = KubernetesSettings.model_validate({"images": IMAGES})
    manifests = Manifests(kubernetes, EtlSettings(), Policy(kubernetes), "http://gateway/", None)
    assert manifests.secret(ID, "t", "k")["stringData"] == {"token": "t", "secrets-key": "k"}
    assert "SHARDGATE_SECRETS" not in variables(pod(record())["containers"][0])


def test_replicas_are_left_to_scaling_and_any_other_change_rolls() -> None:
    before, after = deployment(record()), deployment(record(), grace_seconds=50)
    assert "replicas" not in before["spec"]
    assert before["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    digests = [made["metadata"]["annotations"]["shardgate.io/spec"] for made in (before, deployment(record()), after)]
    assert digests[0] == digests[1] != digests[2]
