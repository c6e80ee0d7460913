"""The user's own document on an installed chart, word for word, with its torchvision functions in pods.

Its user has a token that is good for that and for no more. `seed_document.py` runs the document on this machine,
through a NodePort, and in a trainer's pod beside the gateways. Both have to get the bytes that a gateway in embedded
mode makes of the same packages over the same bucket.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import seed_document
from chart_release import BUCKET, Release, installed
from trainer_pod import FOLDER, start_trainer

from shardgate import Client, WDTransform, embedded
from shardgate.capture import capture
from shardgate.demo.shards import make_shards
from shardgate.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(2400),  # the first test may have to build the image with torch, and both nodes to pull it
]

TRAIN_SAMPLES, VAL_SAMPLES = 16, 4
DOCUMENT_SECONDS = 600
INSIDE = "http://shardgate:51080"
THEIRS = "gcp://another-team"
THEIR_OBJECTS = [f"secret-{number}.tar" for number in range(8)]
"""So many that either gateway owns some of them."""
STORE = "s3://{bucket}?endpoint={endpoint}&region=us-east-1"
SCOPES = {
    "notebook": ["read:gcp://sharded-imagenet/*", "transforms:use", "transforms:register"],
    "reader": ["read:gcp://sharded-imagenet/*"],
    "another-team": ["read:gcp://another-team/*", "transforms:use", "transforms:register"],
}


def token(user: str) -> str:
    return f"the-token-of-{user}"


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def same(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def also_same(sample: dict[str, Any]) -> dict[str, Any]:
    return dict(sample)


@pytest.fixture(scope="module")
def release(cluster: Cluster, torch_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Two gateways over two buckets. Users may do what `SCOPES` says, and nobody anything without a token."""
    shards = tmp_path_factory.mktemp("shards")
    make_shards(shards, TRAIN_SAMPLES, seed_document.VAL_SHARDS, VAL_SAMPLES, lambda: None)
    users = [{"name": name, "token": token(name), "scopes": scopes} for name, scopes in SCOPES.items()]
    objects = [
        secret("tokens", **{"tokens.toml": json.dumps({"tokens": users})}),
        secret("trainer", token=token("notebook")),
    ]
    store = "http://demo-store:7070"
    buckets = {name: {"where": STORE.format(bucket=name[6:], endpoint=store)} for name in (BUCKET, THEIRS)}
    values = {"buckets": buckets, "auth.tokensSecret": "tokens", "config.auth.anonymous": []}
    with installed(cluster, torch=True, objects=objects, **values) as release:
        release.kubectl("exec", "deployment/demo-store", "--", "mkdir", "-p", f"/data/{THEIRS[6:]}")
        for path in shards.glob("*.tar"):
            release.client.put(BUCKET, path.name, path)
        for name in THEIR_OBJECTS:
            release.client.put(THEIRS, name, b"what only they may read")
        yield release


@pytest.fixture(scope="module")
def document() -> Path:
    found = seed_document.find()
    if found is None:
        pytest.skip(f"{seed_document.NAME} is not beside this checkout; set SHARDGATE_SEEDS to its folder")
    return found


def run_here(document: Path, endpoint: str, token: str = "") -> dict[str, Any]:
    """Run the document in a process of this machine; its report."""
    done = subprocess.run(
        [sys.executable, seed_document.__file__, document, endpoint],
        env={**os.environ, "SHARDGATE_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=DOCUMENT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def outside(release: Release, document: Path) -> dict[str, Any]:
    return run_here(document, release.endpoint, token("notebook"))


@pytest.fixture(scope="module")
def inside(release: Release, document: Path, torch_image: str) -> dict[str, Any]:
    trainer = start_trainer(release.cluster, release.namespace, torch_image)
    trainer.install("matplotlib")  # as the document says
    script = Path(seed_document.__file__)
    trainer.send(script, document)
    command = ["python", f"{FOLDER}/{script.name}", f"{FOLDER}/{document.name}", INSIDE]
    return dict(json.loads(trainer.run(*command, seconds=DOCUMENT_SECONDS)))


@contextmanager
def store_forwarded(release: Release) -> Iterator[str]:
    """The demo's object store at an address of this machine."""
    forward = subprocess.Popen(
        ["kubectl", "--namespace", release.namespace, "port-forward", "deployment/demo-store", ":7070"],
        env=release.cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with forward:
        try:
            assert forward.stdout is not None
            said = forward.stdout.readline()  # Forwarding from 127.0.0.1:41234 -> 7070
            yield "http://" + said.removeprefix("Forwarding from ").partition(" ")[0]
        finally:
            forward.terminate()


@pytest.fixture
def local(release: Release, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A gateway with workers on this machine, over the same bucket."""
    (keys,) = release.cluster.get("secret/demo-store", namespace=release.namespace)
    for variable, key in {"AWS_ACCESS_KEY_ID": "access-key", "AWS_SECRET_ACCESS_KEY": "secret-key"}.items():
        monkeypatch.setenv(variable, base64.b64decode(keys["data"][key]).decode())
    with (
        store_forwarded(release) as endpoint,
        embedded({BUCKET: STORE.format(bucket=BUCKET[6:], endpoint=endpoint)}) as client,
    ):
        yield client


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_the_documents_code_runs_word_for_word(place: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(place)
    seconds = ", ".join(f"{each:.1f}" for each in report["init_seconds"])
    print(f"\nfrom {place}: WDTransform to ready, torch's import included: {seconds} s\n{report['printed']}")

    assert [line for line in report["printed"].splitlines() if not line.startswith("  ")] == [
        "Initializing ETL...",
        "ETL imagenet-train successfully initialized",
        "Initializing ETL...",
        "ETL imagenet-val successfully initialized",
    ]
    assert report["batch"] == [3, 224, 224, "torch.float32"]
    assert report["samples"] == {
        "loader": TRAIN_SAMPLES,
        "etl_loader": TRAIN_SAMPLES,
        "val_loader": VAL_SAMPLES * seed_document.VAL_SHARDS,
    }


def test_both_functions_run_in_pods_of_the_image_with_torch(
    release: Release, torch_image: str, outside: dict[str, Any]
) -> None:
    for transform_id in outside["ids"]:
        selector = f"shardgate.io/transform={transform_id}"
        pods = release.cluster.get("pods", namespace=release.namespace, selector=selector)
        assert {container["image"] for pod in pods for container in pod["spec"]["containers"]} == {torch_image}


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_pods_and_embedded_mode_make_the_same_bytes(
    place: str, request: pytest.FixtureRequest, release: Release, local: Client
) -> None:
    report = request.getfixturevalue(place)
    for transform_id in report["ids"]:
        local.transforms.register(release.client.transforms.package(transform_id))

    here = seed_document.digests(local, *report["ids"])

    assert report["digests"] == here
    assert len(set(here.values())) == len(here), "another seed makes other bytes"


def test_who_lacks_the_scope_registers_no_code(release: Release) -> None:
    _, package = capture(same, name="not-theirs", decoder="")
    for client, words in (
        (Client(release.endpoint, token("reader")), "no scope transforms:register"),
        (Client(release.endpoint, "a-token-of-nobody"), "the bearer token is wrong"),
        (Client(release.endpoint), "no bearer token came"),
    ):
        with pytest.raises(Unauthorized, match=words):
            client.transforms.register(package)
    assert not [each for each in release.client.transforms.list() if each["name"] == "not-theirs"]


def test_who_lacks_the_scope_reads_nothing_whichever_gateway_has_it(release: Release) -> None:
    theirs = Client(release.endpoint, token("another-team"))
    mine = Client(release.endpoint, token("notebook"))
    for name in THEIR_OBJECTS:
        assert theirs.get(THEIRS, name) == b"what only they may read"
        with pytest.raises(Unauthorized, match=f"no scope read:{THEIRS}/{name}"):
            mine.get(THEIRS, name)
        with pytest.raises(Unauthorized, match="no scope write:"):
            theirs.put(THEIRS, name, b"nor written")
    with pytest.raises(Unauthorized):
        list(mine.list(THEIRS))
    with pytest.raises(Unauthorized, match="no bearer token came"):
        Client(release.endpoint).get(THEIRS, THEIR_OBJECTS[0])


def test_the_token_of_one_transforms_pod_opens_no_other_package(release: Release) -> None:
    client = Client(release.endpoint, token("notebook"))
    one, other = (
        WDTransform(client, function, transform_name=function.__name__.replace("_", "-"), wd_decoder="").uuid
        for function in (same, also_same)
    )
    pod = Client(release.endpoint, token_of_pods(release, one))

    assert pod.transforms.package(one) == client.transforms.package(one)
    for ask in (
        lambda: pod.transforms.package(other),
        lambda: pod.get(BUCKET, seed_document.TRAIN),
        lambda: pod.get(BUCKET, seed_document.TRAIN, transform_id=one),
        lambda: pod.transforms.register(client.transforms.package(one)),
        pod.transforms.list,
    ):
        with pytest.raises(Unauthorized, match="no scope"):
            ask()


def token_of_pods(release: Release, transform_id: str) -> str:
    """What the pods of a transform have in the file that their runtime reads."""
    selector = f"shardgate.io/transform={transform_id}"
    (pod, *_) = release.cluster.get("pods", namespace=release.namespace, selector=selector)
    (name,) = [each["secret"]["secretName"] for each in pod["spec"]["volumes"] if each["name"] == "token"]
    (found,) = release.cluster.get(f"secret/{name}", namespace=release.namespace)
    return base64.b64decode(found["data"]["token"]).decode()
