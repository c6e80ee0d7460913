"""What the chart renders, and which values it refuses. tests/cluster/test_chart.py installs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import chart
import kubernetes_validate
import pytest
import yaml
from servers_install import require

from shardgate_gateway.etl.kubernetes.names import instance_name, labels
from shardgate_gateway.settings import Settings, load
from shardgate_gateway.supervisor import KILL_SECONDS

KUBERNETES = "v1.34.0"
KINDS = (
    *("configmap-v1", "networkpolicy-networking-v1", "pod-v1", "poddisruptionbudget-policy-v1", "role-rbac-v1"),
    *("rolebinding-rbac-v1", "secret-v1", "service-v1", "serviceaccount-v1", "statefulset-apps-v1"),
    "ingress-networking-v1",
)
DEMO = chart.CHART / "values-demo.yaml"
PLAIN = chart.ROOT / "deploy" / "kubernetes" / "values.yaml"
EVERYTHING: dict[str, Any] = {
    "replicaCount": 3,
    "images": {"registry": "registry.example.com/team/", "pullSecrets": ["pull"], "tag": "1.2"},
    "buckets": {"gcp://a": {"where": "gs://a", "freshness": "immutable"}},
    "credentials": {
        "env": [{"name": "AWS_ACCESS_KEY_ID", "secret": "s3", "key": "id"}],
        "files": ["gcs"],
        "bucketsSecret": "more-buckets",
    },
    "config": {"cache": {"verify": "always"}, "kubernetes": {"allowed_images": ["registry.example.com/*"]}},
    "auth": {"tokensSecret": "tokens"},
    "cache": {"type": "emptyDir", "size": "10Gi"},
    "database": {"existingSecret": "database"},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "ingress": {"enabled": True, "host": "shards.example.com", "tlsSecret": "tls", "className": "nginx"},
    "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "vision"}}}]},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "storage"},
    "nodeSelector": {"disk": "nvme"},
    "tolerations": [{"operator": "Exists"}],
    "priorityClassName": "high",
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "demo": yaml.safe_load(DEMO.read_text()),
    "plain": yaml.safe_load(PLAIN.read_text()),
    "everything": EVERYTHING,
    "hostpath": {"cache.type": "hostPath"},
    "without-policies": {"networkPolicy.enabled": False},
}


@pytest.fixture(scope="module", params=VARIANTS, ids=list(VARIANTS))
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return chart.render(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON schemas of the kinds that the chart has, each whole in one file: a PyPI package brings them, in pieces."""
    folder = tmp_path_factory.mktemp("schemas")
    brought = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"{KUBERNETES}-local-strict"

    def read(name: str) -> dict[str, Any]:
        return json.loads((brought / name).read_text().replace("/api/_definitions.json#", "#"))

    definitions = read("_definitions.json")
    for kind in KINDS:
        (folder / f"{kind}.json").write_text(json.dumps(read(f"{kind}.json") | definitions))
    return folder


@pytest.mark.parametrize("variant", ["defaults", "demo", "everything"])
def test_helm_lint_is_content(variant: str) -> None:
    result = chart.run_helm("lint", "--strict", chart.CHART, *chart.value_flags(**VARIANTS[variant]))

    assert result.returncode == 0, result.stdout
    assert "[WARNING]" not in result.stdout


@pytest.mark.servers
def test_every_object_fits_the_schemas_of_kubernetes(
    objects: list[dict[str, Any]], schemas: Path, tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
    result = _run(
        *(require("kubeconform"), "-strict", "-summary", "-skip", "ServiceMonitor,PrometheusRule"),
        *("-schema-location", f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", tmp_path / "all.yaml"),
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "Invalid: 0, Errors: 0" in result.stdout
    assert "Valid: 0" not in result.stdout


@pytest.mark.servers
@pytest.mark.parametrize("variant", ["defaults", "demo", "everything"])
def test_kube_score_finds_nothing_critical(variant: str, tmp_path: Path) -> None:
    """Two of its opinions are not ours: CPU limits slow down what is idle, and tags that never change need no pull."""
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(chart.render(**VARIANTS[variant])))
    result = _run(
        *(require("kube-score"), "score", "--output-format", "ci", "--ignore-container-cpu-limit"),
        *("--ignore-test", "container-image-pull-policy", tmp_path / "all.yaml"),
    )

    assert "[CRITICAL]" not in result.stdout, result.stdout
    assert result.returncode == 0
    assert "[OK]" in result.stdout


@pytest.mark.servers
def test_generated_files_are_up_to_date() -> None:
    stale = [
        str(path.relative_to(chart.ROOT))
        for path, text in chart.load_generator().generated(str(require("helm-docs"))).items()
        if not path.exists() or path.read_text() != text
    ]

    assert not stale, f"run `make chart`: {stale}"


def test_the_gateway_takes_the_settings_that_the_chart_writes(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = _settings(objects, tmp_path)

    assert settings.etl.runner == "kubernetes"
    assert settings.kubernetes.images[0].image.endswith(("/shardgate-runtime:1.2", "shardgate-runtime:0.1.0"))
    assert settings.cluster.service == "shardgate-peers"


def test_a_user_s_settings_reach_the_gateway(tmp_path: Path) -> None:
    settings = _settings(chart.render(**EVERYTHING), tmp_path)

    assert settings.cache.verify == "always"
    assert settings.kubernetes.allowed_images == ("registry.example.com/*",)
    assert settings.kubernetes.images[1].image == "registry.example.com/team/shardgate-runtime-torch:1.2"
    assert settings.kubernetes.pull_secrets == ("pull",)
    assert settings.buckets["gcp://a"].freshness == "immutable"
    assert settings.auth.tokens_file == "/etc/shardgate/tokens/tokens.toml"


def test_the_cache_leaves_room_on_its_disk(tmp_path: Path) -> None:
    for size, capacity in (("10Gi", int(0.85 * 10 * 2**30)), ("1.5T", int(0.85 * 1.5e12)), ("4096", int(0.85 * 4096))):
        assert _settings(chart.render(**{"cache.size": size}), tmp_path).cache.capacity_bytes == capacity


def test_a_changed_setting_rolls_the_gateways_and_nothing_else_does() -> None:
    def checksum(**values: Any) -> str:
        return _gateway(chart.render(**values))["spec"]["template"]["metadata"]["annotations"]["shardgate.io/config"]

    assert checksum() == checksum(replicaCount=1, maxUnavailable=2)
    assert checksum() != checksum(**{"config.kubernetes.cpu": "2"})


def test_a_cache_in_an_emptydir_is_part_of_what_the_pod_may_use_of_its_node() -> None:
    """Or else the kubelet evicts the gateway as soon as its cache has grown beyond the container's own share."""

    def ephemeral(**values: Any) -> dict[str, str]:
        resources = _container(chart.render(**values))["resources"]
        return {kind: given["ephemeral-storage"] for kind, given in resources.items()}

    assert ephemeral() == {"requests": "256Mi", "limits": "2Gi"}
    sizes = {kind: int(size) for kind, size in ephemeral(**{"cache.type": "emptyDir", "cache.size": "10Gi"}).items()}
    assert sizes == {"requests": (10 << 30) + (256 << 20), "limits": 12 << 30}


def test_a_gateway_knows_its_node_so_that_pods_there_come_first(objects: list[dict[str, Any]]) -> None:
    (node,) = (each for each in _container(objects)["env"] if each["name"] == "SHARDGATE_KUBERNETES__NODE")
    assert node["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_gateways_of_one_node_have_a_folder_each_below_a_hostpath() -> None:
    variables = {
        each["name"]: each.get("value", "") for each in _container(chart.render(**{"cache.type": "hostPath"}))["env"]
    }

    assert variables["SHARDGATE_CACHE__DIR"] == "/var/lib/shardgate/$(POD_NAME)/cache"
    assert variables["SHARDGATE_STATE__DIR"] == "/var/lib/shardgate/$(POD_NAME)/state"
    assert list(variables).index("POD_NAME") < list(variables).index("SHARDGATE_CACHE__DIR"), "only then it is known"


@pytest.mark.parametrize(("linger", "drain"), [(5, 30), (20.5, 600), (0, 0)])
def test_a_gateway_is_not_killed_before_it_has_drained(linger: float, drain: int, tmp_path: Path) -> None:
    objects = chart.render(**{"config.serve.linger_seconds": linger, "drainSeconds": drain})
    serve = _settings(objects, tmp_path).serve
    grace = _gateway(objects)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert (serve.linger_seconds, serve.drain_seconds) == (linger, drain)
    assert grace >= linger + drain + KILL_SECONDS + 5, "the supervisor kills first, and the process ends by itself"


def test_the_volume_of_the_bundled_database_goes_with_the_password_that_opens_it() -> None:
    database = chart.find(chart.render(DEMO), "StatefulSet", "shardgate-database")

    assert database["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"


@pytest.mark.parametrize("release", ["sg", "a-very-long-release-name-of-a-team", "ab-cd-ef-gh-i-----jkl-mno-pqr"])
def test_policies_select_the_pods_that_the_gateway_makes(release: str, tmp_path: Path) -> None:
    objects = chart.render(release=release)
    settings = _settings(objects, tmp_path)
    made = labels(instance_name(settings.kubernetes.instance), "train-0123456789abcdef")
    policies = [
        each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith("-etl")
    ]

    assert settings.kubernetes.instance == instance_name(release)
    (policy,) = policies
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= made.items()


def test_etl_pods_reach_names_and_gateways_and_are_reached_by_gateways_alone() -> None:
    objects = chart.render()
    gateway = _gateway(objects)["spec"]["selector"]["matchLabels"]
    deny = chart.find(objects, "NetworkPolicy", "shardgate-etl-deny")["spec"]
    allow = chart.find(objects, "NetworkPolicy", "shardgate-etl")["spec"]
    dns, to_gateway = allow["egress"]

    assert deny == {"podSelector": allow["podSelector"], "policyTypes": ["Ingress", "Egress"]}
    assert allow["ingress"] == [{"from": [{"podSelector": {"matchLabels": gateway}}]}]
    assert dns["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert to_gateway["to"] == [{"podSelector": {"matchLabels": gateway}}]
    assert to_gateway["ports"] == [{"port": "http", "protocol": "TCP"}]


def test_port_53_is_open_to_the_name_servers_alone() -> None:
    kube_dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    own = {"ipBlock": {"cidr": "169.254.20.10/32"}}
    for expected, objects in (
        (kube_dns, chart.render()),
        (own, chart.render(**{"networkPolicy.dns": [own]})),
    ):
        rules = [
            rule
            for each in objects
            if each["kind"] == "NetworkPolicy"
            for rule in each["spec"].get("egress", ())
            if any(port["port"] == 53 for port in rule.get("ports", ()))
        ]
        assert len(rules) == 2
        assert all(rule["to"] == [expected] for rule in rules)
    assert "networkPolicy" in chart.refusal(**{"networkPolicy.dns": []}), "no peer would be every peer"


def test_what_selects_gateways_selects_all_of_them_and_nothing_else() -> None:
    objects = chart.render(**EVERYTHING | {"database": {"bundled": {"enabled": True}}})
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "StatefulSet"]
    pods += [each["metadata"]["labels"] for each in objects if each["kind"] == "Pod"]
    (gateway,) = (labels for labels in pods if labels["app.kubernetes.io/component"] == "gateway")
    spec = _gateway(objects)["spec"]["template"]["spec"]
    selectors = [
        chart.find(objects, "PodDisruptionBudget", "shardgate")["spec"]["selector"]["matchLabels"],
        *(chart.find(objects, "Service", name)["spec"]["selector"] for name in ("shardgate", "shardgate-peers")),
        *(each["labelSelector"]["matchLabels"] for each in spec["topologySpreadConstraints"]),
    ]

    assert len(selectors) == 5
    for selector in selectors:
        assert [labels for labels in pods if selector.items() <= labels.items()] == [gateway]


def test_prometheus_scrapes_every_gateway_once_with_a_token() -> None:
    objects = chart.render(**EVERYTHING)
    monitor = next(each for each in objects if each["kind"] == "ServiceMonitor")
    selector = monitor["spec"]["selector"]["matchLabels"]
    services = [each for each in objects if each["kind"] == "Service"]
    (scraped,) = (each for each in services if selector.items() <= each["metadata"]["labels"].items())
    (endpoint,) = monitor["spec"]["endpoints"]

    assert scraped["spec"]["clusterIP"] == "None", "so each pod is an endpoint of its own"
    assert [port["name"] for port in scraped["spec"]["ports"]] == [endpoint["port"]]
    reference = {"name": "shardgate-metrics", "key": "token"}
    assert endpoint["authorization"]["credentials"] == reference, "and not the administrator's"
    env = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in _container(objects)["env"]}
    assert env["SHARDGATE_AUTH__METRICS_TOKEN"] == reference
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_an_ingress_leads_to_the_service_of_the_gateways() -> None:
    objects = chart.render(**EVERYTHING)
    (rule,) = chart.find(objects, "Ingress", "shardgate")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = chart.find(objects, "Service", path["backend"]["service"]["name"])["spec"]

    assert rule["host"] == "shards.example.com"
    assert service["type"] == "LoadBalancer"
    assert path["backend"]["service"]["port"]["name"] in [port["name"] for port in service["ports"]]


def test_credentials_come_from_secrets_that_are_there_already() -> None:
    objects = chart.render(**EVERYTHING)
    container, volumes = _container(objects), _gateway(objects)["spec"]["template"]["spec"]["volumes"]
    env = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in container["env"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}

    assert env["AWS_ACCESS_KEY_ID"] == {"name": "s3", "key": "id"}
    assert env["SHARDGATE_BUCKETS"] == {"name": "more-buckets", "key": "buckets.json"}
    assert env["SHARDGATE_STATE__DATABASE"] == {"name": "database", "key": "url"}
    assert {"name": "credentials-gcs", "secret": {"secretName": "gcs"}} in volumes
    assert mounts["credentials-gcs"] == "/etc/shardgate/credentials/gcs"
    assert {each["metadata"]["name"] for each in objects if each["kind"] == "Secret"} == {
        "shardgate-admin",
        "shardgate-metrics",
        "shardgate-signing-key",
    }


def test_the_pod_of_helm_test_may_reach_the_gateways_whoever_else_may() -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"team": "vision"}}}]
    objects = chart.render(**{"networkPolicy.clients": clients})
    (rule,) = chart.find(objects, "NetworkPolicy", "shardgate")["spec"]["ingress"]
    (pod,) = (each for each in objects if each["kind"] == "Pod")
    selectors = [each["podSelector"]["matchLabels"].items() for each in rule["from"] if "podSelector" in each]

    assert any(selector <= pod["metadata"]["labels"].items() for selector in selectors)
    assert clients[0] in rule["from"]


def test_only_jobs_that_install_requirements_reach_a_package_index_and_never_a_private_network() -> None:
    policy = chart.find(chart.render(), "NetworkPolicy", "shardgate-environment")["spec"]

    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "environment"
    (rule,) = policy["egress"]
    assert rule["ports"] == [{"port": 443, "protocol": "TCP"}]
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(rule["to"][0]["ipBlock"]["except"])


def test_no_pod_of_the_chart_asks_for_a_privilege(objects: list[dict[str, Any]]) -> None:
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "StatefulSet"]
    pods += [each["spec"] for each in objects if each["kind"] == "Pod"]

    assert len(pods) >= 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_the_role_is_namespaced_and_grants_no_wildcard_and_no_reading_of_secrets() -> None:
    objects = chart.render()
    rules = chart.find(objects, "Role", "shardgate")["rules"]

    assert not [each for each in objects if each["kind"].startswith("Cluster")]
    assert all("*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in rules)
    granted = {verb for rule in rules if "secrets" in rule["resources"] for verb in rule["verbs"]}
    assert not granted & {"list", "watch"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicaCount": "two"}, "replicaCount: Invalid type. Expected: integer, given: string"),
        ({"replicas": 3}, "Additional property replicas is not allowed"),
        ({"cache.size": "lots"}, "cache.size: Does not match pattern"),
        ({"cache.type": "tmpfs"}, "cache.type: cache.type must be one of the following"),
        ({"service.type": "External"}, "service.type must be one of the following"),
        ({"config.cache.memory_bites": 1}, "config.cache: Additional property memory_bites is not allowed"),
        ({"config.kubernetes.max_cpu": 64}, "config.kubernetes.max_cpu: Invalid type. Expected: string"),
        ({"config.serve.port": 80}, "config.serve: Additional property port is not allowed"),
        ({"buckets": {"imagenet": {"where": "gs://b"}}}, 'Property name of "imagenet" does not match'),
        ({"buckets": {"gcp://b": {"freshness": "immutable"}}}, "where is required"),
        ({"images.runtimes": []}, "images.runtimes: Array must have at least 1 items"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    assert words in chart.refusal(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicaCount": 2}, "set database.existingSecret"),
        ({"database": {"existingSecret": "a", "bundled": {"enabled": True}}}, "exclude each other"),
        ({"ingress.enabled": True}, "ingress.enabled needs ingress.host"),
        ({"service.nodePort": 30000}, "service.type is ClusterIP"),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_a_hint(values: dict[str, Any], words: str) -> None:
    message = chart.refusal(**values)

    assert words in message
    assert "hint:" in message


def test_secrets_are_generated_unless_they_are_given() -> None:
    generated = {each["metadata"]["name"]: each for each in chart.render() if each["kind"] == "Secret"}
    given = chart.render(**{"auth.adminSecret": "mine", "auth.signingKeySecret": "ours"})
    pod = _gateway(given)["spec"]["template"]["spec"]

    assert len(generated["shardgate-admin"]["stringData"]["token"]) >= 32
    assert len(generated["shardgate-signing-key"]["stringData"]["keys"]) >= 32
    assert not [each for each in given if each["kind"] == "Secret"]
    assert {"name": "signing-key", "secret": {"secretName": "ours"}} in pod["volumes"]
    (token,) = (each for each in pod["containers"][0]["env"] if each["name"] == "SHARDGATE_SERVE__TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "token"}


def _settings(objects: list[dict[str, Any]], folder: Path) -> Settings:
    """What a gateway makes of the chart's ConfigMap."""
    (config,) = (each for each in objects if each["kind"] == "ConfigMap" and "gateway.toml" in each["data"])
    path = folder / "gateway.toml"
    path.write_text(config["data"]["gateway.toml"])
    return load(path, {"serve": {"token": "t" * 20}})


def _gateway(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return chart.find(objects, "StatefulSet", "shardgate")


def _container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    container: dict[str, Any] = _gateway(objects)["spec"]["template"]["spec"]["containers"][0]
    return container


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
