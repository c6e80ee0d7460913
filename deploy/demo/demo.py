"""`make cluster-demo` and `make cluster-down`: the whole of it on a Kubernetes cluster.

`up` builds the images, installs the chart with two gateways in a namespace that enforces Pod Security `restricted`,
puts shards of photographs into an object store beside them, and does what `shardgate demo` does, with its transforms in
pods. Everything is left running. It may be run again: what is there already is kept.

Where KUBECONFIG is set, that cluster is used, and REGISTRY says where images go so that its nodes can pull them. Else
`tests/cluster/k8s/cluster` is asked for a cluster on this machine, and `down` takes that down, too.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from shardgate import Client
from shardgate.cli.output import count_bar
from shardgate.demo.run import BUCKET, VAL_SAMPLES, Demo, table
from shardgate.demo.shards import make_shards

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "cluster" / "k8s" / "cluster"
SUPPORT = ROOT / "tests" / "support"
HELM = str(Path(sys.executable).with_name("helm"))
OUTPUT = Path("demo-output")
OURS = OUTPUT / "cluster-is-ours"
"""Is there while a cluster runs that the demo started."""
NAMESPACE = os.environ.get("NAMESPACE", "shardgate-demo")
RELEASE = "shardgate"
IMAGES = ("gateway", "runtime", "runtime-torch", "demo-store", "demo-postgres")
NODES = 2
SAMPLES, SHARDS = 1000, 6
CONNECT_SECONDS = 2
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
EXPORT = re.compile(r"(\w+)=(\S+)")


class DemoError(Exception):
    """The message says what is missing and what to do."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, and the environment in which kubectl, helm and the image builder work with it."""

    environment: dict[str, str]

    def run(self, *command: str | Path, text: str = "") -> str:
        """Run a program to its end; its standard output."""
        result = subprocess.run(
            [str(part) for part in command],
            env=self.environment,
            input=text,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if result.returncode:
            raise DemoError(f"{' '.join(map(str, command))} failed: {result.stdout[-2000:]}")
        return result.stdout

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return self.run("kubectl", "--namespace", NAMESPACE, *arguments, text=text)

    @property
    def tag(self) -> str:
        """Of the images: another one for other sources, so that pods are replaced when the demo runs anew."""
        return self.environment["IMAGE_TAG"]

    @property
    def registry(self) -> str:
        return self.environment["REGISTRY"]


def find_cluster(*, start: bool) -> Cluster | None:
    """The user's cluster, or the one of this machine; None where there is none and none is to be started."""
    if os.environ.get("KUBECONFIG"):
        if not os.environ.get("REGISTRY"):
            raise DemoError("set REGISTRY to a registry that this machine pushes to and the cluster's nodes pull from")
        return Cluster({"IMAGE_TAG": source_digest(), **os.environ})
    exports = _cluster_script("env")
    if exports is None:
        if not start:
            return None
        OUTPUT.mkdir(exist_ok=True)
        OURS.touch()
        subprocess.run([SCRIPT, "up", str(NODES)], check=True)
        exports = _cluster_script("env") or ""
    found = dict(EXPORT.findall(exports))
    path = found.pop("PATH").replace("$PATH", os.environ["PATH"])
    return Cluster({"IMAGE_TAG": source_digest(), **os.environ, **found, "PATH": path})


def up(console: Console) -> None:
    """Build, install, fill, show; leave it running."""
    cluster = find_cluster(start=True)
    assert cluster is not None
    console.print(f"building {len(IMAGES)} images (the one with torch takes minutes, the first time)")
    build_images(cluster)
    console.print("installing the chart: two gateways, PostgreSQL, an object store")
    seconds = install(cluster)
    endpoint = find_endpoint(cluster)
    console.print(f"all of it ready after {seconds:.0f} s; gateways at {endpoint}")
    with Client(endpoint) as client:
        fill(client)
        demo = Demo(client, SAMPLES, SHARDS, SAMPLES // VAL_SAMPLES, metrics=lambda: metrics(cluster), place="pods")
        passes = demo.passes(console)
        demo.check_bytes()
        picture = OUTPUT / "cluster-before-after.png"
        demo.draw(picture)
    console.print(table(passes))
    print(cluster.kubectl("get", "pods", "--output", "wide"))
    console.print(
        f"[bold]{picture}[/] shows the same samples before and after. `make cluster-down` removes everything."
    )
    print(f"SHARDGATE_ENDPOINT={endpoint}")
    print(f"KUBECONFIG={cluster.environment['KUBECONFIG']}")
    print(f"NAMESPACE={NAMESPACE}")


def down(console: Console) -> None:
    """Remove the namespace with all that is in it, and the cluster if the demo started it."""
    cluster = find_cluster(start=False)
    if cluster is None:
        console.print("no cluster runs")
    elif OURS.exists():
        subprocess.run([SCRIPT, "down"], check=True)
        console.print("the cluster is gone")
    else:
        cluster.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found")
        console.print(f"namespace {NAMESPACE} is gone; the cluster was there before, and stays")
    OURS.unlink(missing_ok=True)


def source_digest() -> str:
    """The tag by which the tests call images of this working tree."""
    command = [sys.executable, "-c", "import cluster_images; print(cluster_images.source_digest())"]
    return subprocess.run(command, cwd=SUPPORT, capture_output=True, text=True, check=True).stdout.strip()


def build_images(cluster: Cluster) -> None:
    if not os.environ.get("KUBECONFIG"):
        subprocess.run([SCRIPT, "base"], check=True)  # there need be no Docker Hub
    cluster.run(sys.executable, SUPPORT / "servers.py", "install", "versitygw")
    cluster.run(ROOT / "deploy" / "build-images", *IMAGES)


def install(cluster: Cluster) -> float:
    """Namespace, store, chart; returns how many seconds it took until all were ready, pulling images included."""
    began = time.monotonic()
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
    cluster.run("kubectl", "apply", "--filename", "-", text=json.dumps(namespace))
    store = (ROOT / "deploy" / "demo" / "store" / "store.yaml").read_text()
    cluster.kubectl(
        "apply",
        "--filename",
        "-",
        text=store.replace("IMAGE", f"{cluster.registry}/shardgate-demo-store:{cluster.tag}"),
    )
    chart = ROOT / "deploy" / "helm" / "shardgate"
    images = f"images.registry={cluster.registry},images.tag={cluster.tag}"
    database = f"database.bundled.image={cluster.registry}/shardgate-demo-postgres:{cluster.tag}"
    cluster.run(
        *(HELM, "upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE),
        *("--values", chart / "values-demo.yaml", "--set", images, "--set", database, "--wait", "--timeout", "10m"),
    )
    cluster.kubectl("rollout", "status", "deployment/demo-store", "--timeout", "5m")
    return time.monotonic() - began


def find_endpoint(cluster: Cluster) -> str:
    """A node's address at which the gateways' NodePort answers from here."""
    port = cluster.kubectl("get", "service", RELEASE, "--output", "jsonpath={.spec.ports[0].nodePort}")
    addresses = list(_node_addresses(cluster))
    for address in addresses:
        try:
            socket.create_connection((address, int(port)), CONNECT_SECONDS).close()
        except OSError:
            continue
        return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    raise DemoError(
        f"no node answers on port {port} from here (tried {', '.join(addresses)}); "
        f"`kubectl port-forward service/{RELEASE} -n {NAMESPACE} 51080` leads there"
    )


def fill(client: Client) -> None:
    """Make the shards that are not there yet, and PUT them through the gateways."""
    data = OUTPUT / "sharded-imagenet"
    val = SAMPLES // VAL_SAMPLES
    if len({info.name for info in client.list(BUCKET)}) > SHARDS:
        return
    with count_bar("photographs", SAMPLES + SHARDS * val) as done:
        make_shards(data, SAMPLES, SHARDS, val, done)
    for path in sorted(data.glob("*.tar")):
        client.put(BUCKET, path.name, path)


def metrics(cluster: Cluster) -> str:
    """What all gateways count."""
    selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=gateway"
    names = cluster.kubectl("get", "pods", "--selector", selector, "--output", "name").split()
    paths = [f"/api/v1/namespaces/{NAMESPACE}/{name.replace('pod/', 'pods/')}:51080/proxy" for name in names]
    return "\n".join(cluster.kubectl("get", "--raw", f"{path}/metrics") for path in paths)


def _node_addresses(cluster: Cluster) -> Iterator[str]:
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output", "json"))["items"]
    for kind in ("ExternalIP", "InternalIP"):
        for node in nodes:
            addresses = node["status"].get("addresses", ())  # a node that just joins has none
            yield from (each["address"] for each in addresses if each["type"] == kind)


def _cluster_script(command: str) -> str | None:
    result = subprocess.run([SCRIPT, command], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


if __name__ == "__main__":
    commands = {"up": up, "down": down}
    if len(sys.argv) != len(["demo.py", "up"]) or sys.argv[1] not in commands:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(commands)}")
    try:
        commands[sys.argv[1]](Console())
    except DemoError as error:
        sys.exit(f"cluster-demo: {error}")
