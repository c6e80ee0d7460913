"""The chart, installed on a real cluster: it gets ready, it may do what it must and no more, and it can be changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chart
import pytest
from chart_release import BUCKET, RELEASE, ClientReaders, Release, installed

from cluster import ready, wait_until
from shardgate import WDTransform
from shardgate.errors import TransformFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

SHARD = "train-000000.tar"
SAMPLES, SAMPLE_BYTES = 200, 50_000
READERS = 8
CALL = re.compile(
    r'^shardgate_kubernetes_calls_total\{method="(\w+)",resource="([\w.]+)",status="(\w+)"\} (\S+)', re.MULTILINE
)
METHODS = {
    "get": {"GET"},
    "list": {"GET"},
    "watch": {"GET"},
    "create": {"POST", "PATCH"},  # server-side apply creates what is not there
    "patch": {"PATCH"},
    "update": {"PUT"},
    "delete": {"DELETE"},
}
ASK = """
import json, os, sys
from shardgate import Client
bucket, key, transform = sys.argv[1:]
client = Client("http://127.0.0.1:51080", token=os.environ["SHARDGATE_SERVE__TOKEN"])
transforms, cache = client.transforms, client.cache.stat()
said = {
    "transforms": transforms.list(), "shown": transforms.show(transform), "stats": transforms.stats(transform),
    "logs": transforms.logs(transform), "objects": [one.name for one in client.list(bucket)],
    "etag": client.head(bucket, key).etag, "entries": cache["entries"], "used": cache["used_bytes"],
}
print(json.dumps(said))
"""
"""Asks the gateway in whose pod it runs."""
BEYOND = (
    ("get", "secrets"),
    ("list", "secrets"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("list", "configmaps"),
    ("create", "serviceaccounts/token"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("patch", f"statefulsets.apps/{RELEASE}"),
    ("get", "statefulsets.apps/another"),
    ("list", "nodes"),
    ("list", "pods --namespace=kube-system"),
)


def reversed_bytes(sample: dict[str, Any]) -> dict[str, Any]:
    sample["bin"] = sample["bin"][::-1]
    return sample


def not_installable(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def shard() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for index in range(SAMPLES):
            member = tarfile.TarInfo(f"{index:06}.bin")
            member.size = SAMPLE_BYTES
            tar.addfile(member, io.BytesIO(hashlib.shake_128(str(index).encode()).digest(SAMPLE_BYTES)))
    return file.getvalue()


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    with installed(cluster) as release:
        release.client.put(BUCKET, SHARD, shard())
        yield release


@pytest.fixture(scope="module")
def transform(release: Release) -> WDTransform:
    return WDTransform(release.client, reversed_bytes, transform_name="reversed", wd_decoder="", min_replicas=2)


def test_two_gateways_and_their_database_are_ready_soon_in_a_restricted_namespace(release: Release) -> None:
    print(f"\nhelm install to all ready, images present: {release.seconds:.1f} s")
    pods = release.gateways()

    assert len(pods) == 2
    assert all(ready(pod) for pod in pods)


def test_helm_test_passes(release: Release) -> None:
    assert "Phase:          Succeeded" in release.helm("test", RELEASE)


def test_the_commands_of_the_notes_work_as_they_stand(release: Release) -> None:
    notes = release.helm("get", "notes", RELEASE)
    commands = [line for line in notes.splitlines() if line.startswith("  ")]

    assert len(commands) == 3, notes
    assert BUCKET in bash(release.cluster, "\n".join(commands))


def test_the_plain_manifests_are_applied_as_their_readme_says(
    cluster: Cluster, gateway_image: str, tmp_path: Path
) -> None:
    folder = chart.ROOT / "deploy" / "kubernetes"
    commands = (folder / "README.md").read_text().split("```")[1]
    with cluster.namespace("plain") as namespace:
        for path in folder.glob("*.yaml"):
            text = path.read_text().replace("registry.example.com/team/shardgate-gateway:0.1.0", gateway_image)
            text = text.replace("namespace: shardgate", f"namespace: {namespace}")
            if path.name == "namespace.yaml":
                text = text.replace("name: shardgate", f"name: {namespace}")
            (tmp_path / path.name).write_text(text)
        said = bash(cluster, commands.replace("-n shardgate", f"-n {namespace}"), folder=tmp_path)
        cluster.kubectl("rollout", "status", "statefulset/shardgate", "--timeout=120s", namespace=namespace)
        listing = "SHARDGATE_TOKEN=$SHARDGATE_SERVE__TOKEN shardgate ls"
        seen = cluster.kubectl("exec", "shardgate-0", "--", "sh", "-c", listing, namespace=namespace)

    assert "statefulset.apps/shardgate created" in said
    assert "violate PodSecurity" not in said
    assert BUCKET in seen


def test_every_gateway_says_the_same_about_everything(release: Release, transform: WDTransform) -> None:
    assert release.client.get(BUCKET, SHARD, transform_id=transform.uuid)
    told: list[dict[str, Any]] = []

    def agree() -> bool:
        names = [pod["metadata"]["name"] for pod in release.gateways()]
        asked = ("python", "-c", ASK, BUCKET, SHARD, transform.uuid)
        told[:] = [json.loads(release.kubectl("exec", name, "--", *asked)) for name in names]
        return (
            told[0] == told[1] and told[0]["stats"]["samples_out"] >= SAMPLES and told[0]["shown"]["state"] == "ready"
        )

    wait_until(agree, 120, "both gateways to say the same of a transform that is ready")
    said = told[0]
    assert [record["id"] for record in said["transforms"]] == [transform.uuid]
    assert SHARD in said["objects"]
    assert said["entries"] >= 1


def test_the_gateway_does_with_its_role_what_it_must(release: Release, transform: WDTransform) -> None:
    """Every verb of the Role is used by the life of one transform, and nothing is asked for that the Role lacks."""
    client = release.client
    assert client.get(BUCKET, SHARD, transform_id=transform.uuid)
    transform.logs()
    client.transforms.stop(transform.uuid)
    client.transforms.start(transform.uuid)
    for _ in range(2):  # the second try removes the Job of the first
        with pytest.raises(TransformFailed, match="shardgate-no-such-package"):
            WDTransform(
                client,
                not_installable,
                transform_name="lacking",
                requirements=["shardgate-no-such-package==1.0"],
                verbose=False,
            )
        jobs = ("job", "--selector=app.kubernetes.io/component=environment")
        release.kubectl("wait", *jobs, "--for=condition=Failed", "--timeout=90s")
    client.transforms.delete("lacking")

    (role,) = release.cluster.get(f"role/{RELEASE}", namespace=release.namespace)
    granted = {
        (resource.partition("/")[0], verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    wait_until(lambda: not unused(granted, calls(release)), 60, f"all of {granted} to be used; calls: {calls(release)}")
    assert not [call for call in calls(release) if call[2] == "403"]


def test_the_gateway_may_do_nothing_else(release: Release) -> None:
    who = f"--as=system:serviceaccount:{release.namespace}:{RELEASE}"
    for verb, resource in BEYOND:
        answer = release.kubectl("auth", "can-i", verb, *resource.split(), who, check=False)
        assert answer.splitlines()[0] == "no", f"it may {verb} {resource}: {answer}"
    assert "Forbidden" in release.kubectl("get", "secrets", who, check=False)


def test_the_account_of_etl_pods_may_do_nothing_at_all(release: Release, transform: WDTransform) -> None:
    who = f"--as=system:serviceaccount:{release.namespace}:{RELEASE}-etl"
    pods = release.cluster.get("pods", namespace=release.namespace, selector="app.kubernetes.io/component=etl")

    assert transform.uuid
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {f"{RELEASE}-etl"}
    assert {pod["spec"]["automountServiceAccountToken"] for pod in pods} == {False}
    assert release.kubectl("auth", "can-i", "list", "pods", who, check=False).strip().endswith("no")


def test_readers_notice_neither_an_upgrade_nor_a_rollback(release: Release, transform: WDTransform) -> None:
    client, token = release.client, release.token
    raw = hashlib.sha256(shard()).hexdigest()
    transformed = hashlib.sha256(client.get(BUCKET, SHARD, transform_id=transform.uuid)).hexdigest()
    assert raw != transformed
    reads = [({"object_name": SHARD}, raw), ({"object_name": SHARD, "transform_id": transform.uuid}, transformed)]
    before = [pod["metadata"]["uid"] for pod in release.gateways()]

    with ClientReaders(client, reads * (READERS // 2)) as readers:
        wait_until(lambda: readers.bodies > READERS, 60, "readers to read")
        release.helm(
            *("upgrade", RELEASE, chart.CHART, "--reuse-values", "--wait", "--timeout", "240s"),
            *("--set", "config.cache.memory_bytes=1048576,config.kubernetes.grace_seconds=20"),
        )
        wait_until(lambda: rolled(release, before), 240, "the upgrade to replace both gateways")
        upgraded = [pod["metadata"]["uid"] for pod in release.gateways()]
        release.helm("rollback", RELEASE, "--wait", "--timeout", "240s")
        wait_until(lambda: rolled(release, upgraded), 240, "the rollback to replace both gateways")
        done = readers.bodies
        wait_until(lambda: readers.bodies > done + READERS, 60, "readers to go on")

    print(f"\nupgrade and rollback: {readers.bodies} bodies, longest pause {readers.pause:.1f} s, {readers.problems}")
    assert not readers.problems
    assert release.token == token


def test_an_uninstall_leaves_nothing_behind(release: Release, transform: WDTransform) -> None:
    """Nor of what the gateways made: Deployments, Services, Secrets and pods of transforms, Jobs, the Lease."""
    client = release.client
    assert client.get(BUCKET, SHARD, transform_id=transform.uuid)
    kinds = release.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    listed = ",".join(kind for kind in kinds if kind != "events" and not kind.startswith("events."))

    def left() -> str:
        return release.kubectl("get", listed, "--selector", f"app.kubernetes.io/instance={RELEASE}", "--output=name")

    made = left()
    for kind in ("deployment.apps/", "lease.coordination.k8s.io/", "secret/", "persistentvolumeclaim/data-"):
        assert f"{kind}{RELEASE}" in made
    release.helm("uninstall", RELEASE, "--wait")
    wait_until(lambda: not left(), 150, f"the last of {made.split()} to go")


def bash(cluster: Cluster, commands: str, *, folder: Path | None = None) -> str:
    """Commands as somebody types them who has this Python's programs on the path; what they printed."""
    environment = cluster.environment
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=folder,
        env={**environment, "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def rolled(release: Release, before: list[str]) -> bool:
    """Whether none of these pods is left, and all gateways are ready."""
    pods = release.gateways()
    (gateways,) = release.cluster.get(f"statefulset/{RELEASE}", namespace=release.namespace)
    ready = gateways["status"].get("readyReplicas", 0) == len(pods) == gateways["spec"]["replicas"]
    return ready and not {pod["metadata"]["uid"] for pod in pods} & set(before)


def calls(release: Release) -> set[tuple[str, str, str]]:
    """Method, resource and status of the gateways' requests to the API server."""
    return {(method, resource, status) for method, resource, status, _ in CALL.findall(release.metrics())}


def unused(granted: set[tuple[str, str]], made: set[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Verbs of the Role that no request needed."""
    done = {(method, resource) for method, resource, status in made if status.startswith("2")}
    return [
        (resource, verb)
        for resource, verb in sorted(granted)
        if not any((method, resource) in done for method in METHODS[verb])
    ]
