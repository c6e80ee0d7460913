"""The chart on a real cluster: two gateways, a PostgreSQL and an object store of their own."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.request import urlopen

from chart import CHART, HELM, ROOT, value_flags
from cluster_images import image
from servers_install import require

from cluster import ready, wait_until
from shardgate import Client
from shardgate.errors import ShardgateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from cluster import Cluster

RELEASE = "shardgate"
BUCKET = "gcp://sharded-imagenet"
STORE = ROOT / "deploy" / "demo" / "store" / "store.yaml"
INSTALL_SECONDS = 240
PULL_SECONDS = 600
"""The image with torch takes one minute to an idle machine; two nodes pull it at once."""
READ_BYTES = 1 << 16
SCRAPE = """
import os, urllib.request as u
token = "Bearer " + os.environ["SHARDGATE_SERVE__TOKEN"]
request = u.Request("http://127.0.0.1:51080/metrics", headers={"Authorization": token})
print(u.urlopen(request).read().decode())
"""
SECURE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SECURE_POD = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


@dataclass(frozen=True)
class Release:
    """An installed chart.

    Attributes:
        seconds: From `helm install` until all its pods were ready.
    """

    cluster: Cluster
    namespace: str
    seconds: float

    def helm(self, *arguments: str | Path, seconds: float = INSTALL_SECONDS) -> str:
        return helm(self.cluster, self.namespace, *arguments, seconds=seconds)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.cluster.kubectl(*arguments, namespace=self.namespace, **options)

    @property
    def token(self) -> str:
        (secret,) = self.cluster.get(f"secret/{RELEASE}-admin", namespace=self.namespace)
        return base64.b64decode(secret["data"]["token"]).decode()

    @property
    def endpoint(self) -> str:
        (service,) = self.cluster.get(f"service/{RELEASE}", namespace=self.namespace)
        return f"http://{self.cluster.nodes[0].address}:{service['spec']['ports'][0]['nodePort']}"

    def answers(self) -> bool:
        """Nodes hear of ready pods a moment after everybody else."""
        with suppress(OSError), urlopen(f"{self.endpoint}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    @property
    def client(self) -> Client:
        return Client(self.endpoint, token=self.token)

    def gateways(self) -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=gateway"
        return self.cluster.get("pods", namespace=self.namespace, selector=selector)

    def metrics(self) -> str:
        """What all gateways count."""
        names = [pod["metadata"]["name"] for pod in self.gateways()]
        return "\n".join(self.kubectl("exec", name, "--", "python", "-c", SCRAPE) for name in names)


@contextmanager
def installed(
    cluster: Cluster, *, torch: bool = False, objects: Sequence[Mapping[str, Any]] = (), **values: Any
) -> Iterator[Release]:
    """The chart with `values-demo.yaml` and these values, all ready, in a namespace that enforces `restricted`.

    Args:
        torch: The nodes pull the runtime with torch, too.
        objects: What has to be there before, like Secrets that the values name.
    """
    cluster.recycle_volumes()
    require("versitygw")
    names = ["gateway", "runtime", "demo-store", "demo-postgres", *(["runtime-torch"] if torch else [])]
    images = {name: image(cluster, name) for name in names}
    registry, _, rest = images["gateway"].rpartition("/")
    given = {
        "images.registry": registry,
        "images.tag": rest.rpartition(":")[2],
        "database.bundled.image": images["demo-postgres"],
        **values,
    }
    with cluster.namespace("chart") as namespace:
        _pull(cluster, namespace, images)
        if objects:
            cluster.apply(*objects, namespace=namespace)
        cluster.kubectl("apply", "-f", "-", namespace=namespace, stdin=_store(images["demo-store"]))
        cluster.kubectl("rollout", "status", "deployment/demo-store", "--timeout", "120s", namespace=namespace)
        began = time.monotonic()
        flags = value_flags(CHART / "values-demo.yaml", **given)
        helm(cluster, namespace, "install", RELEASE, CHART, *flags, "--wait", "--timeout", f"{INSTALL_SECONDS}s")
        release = Release(cluster, namespace, time.monotonic() - began)
        wait_until(release.answers, INSTALL_SECONDS, "the node's port to lead to the gateways")
        yield release


def helm(cluster: Cluster, namespace: str, *arguments: str | Path, seconds: float = INSTALL_SECONDS) -> str:
    """Run helm; raises AssertionError with its words, and what the pods say, where it fails."""
    done = subprocess.run(
        [HELM, "--namespace", namespace, *map(str, arguments)],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    )
    if done.returncode:
        said = f"helm {arguments[0]} failed: {done.stderr or done.stdout}"
        raise AssertionError("\n".join([said, *_troubles(cluster, namespace)]))
    return done.stdout


def _troubles(cluster: Cluster, namespace: str) -> Iterator[str]:
    """The pods, what happened to them, and what those that are not ready wrote last."""
    for kind in ("pods", "events"):
        yield cluster.kubectl("get", kind, "--output", "wide", namespace=namespace, check=False)
    for pod in cluster.get("pods", namespace=namespace):
        if not ready(pod):
            name = pod["metadata"]["name"]
            yield name + ":\n" + cluster.kubectl("logs", name, "--tail=40", namespace=namespace, check=False)


def _store(name: str) -> str:
    """The demo's object store, without a volume."""
    claim = "{name: data, persistentVolumeClaim: {claimName: demo-store}}"
    text = STORE.read_text()
    assert claim in text
    return text.replace("IMAGE", name).replace(claim, "{name: data, emptyDir: {}}")


def _pull(cluster: Cluster, namespace: str, images: dict[str, str]) -> None:
    """Have every node pull the images, so that what is measured later is not the network."""
    containers = [
        {
            "name": name,
            "image": reference,
            "command": ["sh", "-c", ":"],
            "securityContext": SECURE,
            "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
        }
        for name, reference in images.items()
    ]
    pods = [f"pull-{node.name}" for node in cluster.nodes]
    for node, name in zip(cluster.nodes, pods, strict=True):
        spec = {
            "nodeName": node.name,
            "restartPolicy": "Never",
            "securityContext": SECURE_POD,
            "automountServiceAccountToken": False,
            "containers": containers,
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        cluster.kubectl("apply", "-f", "-", namespace=namespace, stdin=json.dumps(pod))
    for name in pods:
        condition = "--for=jsonpath={.status.phase}=Succeeded"
        cluster.kubectl(
            "wait",
            f"pod/{name}",
            condition,
            f"--timeout={PULL_SECONDS}s",
            namespace=namespace,
            seconds=PULL_SECONDS + 30,
        )


@dataclass
class ClientReaders:
    """Threads that read one object after the other with our client, until the block ends.

    Attributes:
        bodies: Read to the end and found right.
        pause: The longest time without a byte, in seconds.
        problems: What went wrong.
    """

    client: Client
    reads: list[tuple[dict[str, Any], str]]
    """Options of `Client.open` beside the bucket, and the SHA-256 that the body must have: one thread each."""
    bodies: int = 0
    pause: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._read_on, args=each, daemon=True) for each in self.reads]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads), "a reader hangs"

    def _read_on(self, options: dict[str, Any], expected: str) -> None:
        while not self._stop.is_set():
            try:
                digest = self._read(options)
            except (ShardgateError, OSError) as error:
                digest = f"{type(error).__name__}: {error}"
            with self._lock:
                if digest == expected:
                    self.bodies += 1
                else:
                    self.problems.append(digest)

    def _read(self, options: dict[str, Any]) -> str:
        digest, last = hashlib.sha256(), time.monotonic()
        with self.client.open(BUCKET, **options) as reader:
            while part := reader.read(READ_BYTES):
                now = time.monotonic()
                with self._lock:
                    self.pause = max(self.pause, now - last)
                digest.update(part)
                last = now
        return digest.hexdigest()
