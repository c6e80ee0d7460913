"""A Kubernetes cluster for the tests: found, or started, and told what to do.

One test quickly, against the cluster that `make cluster-up` started and that stays up:

    eval "$(tests/cluster/k8s/cluster env)"
    pytest tests/cluster/test_images.py -k torch

A session of pytest uses, in this order

1. the cluster of `$KUBECONFIG` with `$REGISTRY` if `SHARDGATE_TEST_CLUSTER=1` says that it is one for tests;
2. the one of `tests/cluster/k8s/cluster` (two nodes), where this is Linux, root, and Go is there;
3. the one of `kind`, where that and Docker are there. It can't stop its nodes or API server: those tests are skipped.

Where there is none the test is skipped with the reason, and fails if `SHARDGATE_REQUIRE_CLUSTER=1`. Sessions share a
cluster: each holds a shared OS lock while it uses it. The one that has to start it holds the lock alone meanwhile, and
the last to leave takes down what a session of tests has started, unless `SHARDGATE_KEEP_CLUSTER=1`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SCRIPT = Path(__file__).parent.parent / "cluster/k8s/cluster"
NODES = 2
START_SECONDS = 1500
"""With the compilation of Kubernetes, which takes six minutes on two idle cores."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "shardgate"
LOCK = CACHE / f"cluster{os.environ.get('CLUSTER_ID', '')}.lock"
MARK = "started-by-tests"
COMMAND_SECONDS = 120
MACHINE_SECONDS = 300
"""To stop or start a machine or a program of one; a busy one is slow to come back."""
POLL_SECONDS = 0.2
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


class NoClusterError(Exception):
    """There is none, and none can be started; the message says why."""


def truthy(name: str) -> bool:
    return os.environ.get(name, "") not in {"", "0"}


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its name, and the address at which NodePorts answer."""

    name: str
    address: str


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        kubeconfig: An administrator's.
        registry: `host:port` where images are pushed and pulled, or "" if `kind load` brings them.
        host: This machine as pods reach it; listen there.
        programs: Folder of kubectl, or None where PATH has one.
        script: What starts and stops nodes, where it is ours.
    """

    kubeconfig: Path
    registry: str
    host: str
    programs: Path | None = None
    script: Path | None = None

    @cached_property
    def environment(self) -> dict[str, str]:
        """For programs that speak to the cluster: KUBECONFIG, REGISTRY, and kubectl on PATH."""
        path = os.pathsep.join([*([str(self.programs)] if self.programs else []), os.environ["PATH"]])
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "REGISTRY": self.registry, "PATH": path}

    def kubectl(
        self,
        *arguments: str,
        namespace: str = "",
        stdin: str = "",
        check: bool = True,
        seconds: float = COMMAND_SECONDS,
    ) -> str:
        """Run kubectl, and return what it printed.

        Raises:
            AssertionError: It failed; the message has its words. `check=False` returns them instead.
        """
        scope = ["--namespace", namespace] if namespace else []
        done = subprocess.run(
            ["kubectl", *scope, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode and check:
            raise AssertionError(f"kubectl {' '.join(arguments)} failed: {done.stderr or done.stdout}")
        return done.stdout + (done.stderr if done.returncode else "")

    def get(self, what: str, *, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Objects as dictionaries: `get("pods", namespace=..., selector="app=x")`, or `get("pod/x")` for just one."""
        chosen = ["--selector", selector] if selector else []
        found = json.loads(self.kubectl("get", what, "--output", "json", *chosen, namespace=namespace))
        items: list[dict[str, Any]] = found.get("items", [found])
        return items

    def apply(self, *objects: Mapping[str, Any], namespace: str = "") -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--filename", "-", namespace=namespace, stdin=text)

    @cached_property
    def nodes(self) -> list[Node]:
        return [
            Node(
                node["metadata"]["name"],
                next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"),
            )
            for node in self.get("nodes")
        ]

    @contextmanager
    def namespace(self, name: str, *, labels: str = RESTRICTED) -> Iterator[str]:
        """A namespace `name-xxxxxx` that admits only pods of the strictest kind; it is deleted afterwards."""
        unique = f"{name}-{uuid.uuid4().hex[:6]}"
        self.kubectl("create", "namespace", unique)
        self.kubectl("label", "namespace", unique, labels)
        account = ("get", "serviceaccount", "default", "--ignore-not-found", "--output", "name")
        wait_until(lambda: bool(self.kubectl(*account, namespace=unique)), 60, "the namespace to take pods")
        try:
            yield unique
        finally:
            self.kubectl("delete", "namespace", unique, "--wait=false", check=False)

    def recycle_volumes(self) -> None:
        """Local volumes are bound for good; free those whose claims are gone, so that the next test finds some."""
        if self.script:
            self._script("recycle")

    @contextmanager
    def node_dead(self, node: str) -> Iterator[None]:
        """A machine that loses power and its network, and comes back after the block, Ready."""
        number = node.removeprefix("node-")
        self._script("node-kill", number)
        try:
            yield
        finally:
            self._script("node-start", number)
            wait_until(lambda: ready(self.get(f"node/{node}")[0]), 150, f"{node} to come back")

    @contextmanager
    def program_stopped(self, name: str) -> Iterator[None]:
        """Without `kube-apiserver`, `registry`, `etcd`, ... for as long as the block lasts."""
        self._script("stop", name)
        try:
            yield
        finally:
            self._script("start", name)
            wait_until(lambda: all(ready(node) for node in self.get("nodes")), 150, "every node to be Ready again")

    def _script(self, *arguments: str) -> None:
        if self.script is None:
            pytest.skip(f"this cluster's machines are not ours to {arguments[0]}")
        run_script(*arguments, seconds=MACHINE_SECONDS)


def ready(thing: Mapping[str, Any]) -> bool:
    """Does a pod's, node's or any other object's status have the condition Ready?"""
    conditions = thing.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Poll until a condition holds; return how many seconds that took.

    Raises:
        AssertionError: It did not come true in time.
    """
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started


def run_script(*arguments: str, seconds: float = COMMAND_SECONDS) -> str:
    """Run the cluster script, and return what it printed.

    Raises:
        NoClusterError: It failed; the message has its words.
    """
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise NoClusterError(f"{SCRIPT.name} {' '.join(arguments)} failed: {done.stderr or done.stdout}")
    return done.stdout


def given_cluster() -> Cluster:
    """The cluster that the environment names."""
    try:
        kubeconfig, registry = Path(os.environ["KUBECONFIG"]), os.environ["REGISTRY"]
    except KeyError as error:
        raise NoClusterError(f"SHARDGATE_TEST_CLUSTER=1 needs {error.args[0]}") from error
    return Cluster(kubeconfig, registry, os.environ.get("HOST_IP", registry.rsplit(":", 1)[0]))


def scripted_cluster() -> Cluster:
    """The cluster that our script has up."""
    exports = run_script("env").removeprefix("export ").split()
    values = dict(pair.split("=", 1) for pair in exports)
    kubeconfig = Path(values["KUBECONFIG"])
    return Cluster(kubeconfig, values["REGISTRY"], values["HOST_IP"], kubeconfig.parent / "bin", SCRIPT)


def kind_cluster(folder: Path) -> Cluster:
    """A cluster of containers. Its nodes reach this machine at the gateway of Docker's network."""
    kubeconfig = folder / "kind.kubeconfig"
    subprocess.run(["kind", "create", "cluster", "--name", "shardgate", "--kubeconfig", kubeconfig], check=True)
    inspect = ["docker", "network", "inspect", "kind", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    host = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    return Cluster(kubeconfig, "", host)


def why_no_script() -> str:
    if not sys.platform.startswith("linux"):
        return "this is not Linux"
    if os.geteuid() != 0:
        return "this is not root"
    return "" if shutil.which("go") else "Go is not installed"


@contextmanager
def shared_scripted_cluster() -> Iterator[Cluster]:
    """Our script's cluster, up for as long as anybody uses it."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as lock:
        cluster = _join(lock)
        try:
            yield cluster
        finally:
            if (cluster.kubeconfig.parent / MARK).exists() and not truthy("SHARDGATE_KEEP_CLUSTER") and _alone(lock):
                run_script("down")


def _alone(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _join(lock: IO[str]) -> Cluster:
    """Take the shared lock of a cluster that is up. Whoever is alone mends it first, which nobody else would bear."""
    while True:
        if _alone(lock):
            was_up = _is_up()
            run_script("up", str(NODES), seconds=START_SECONDS)
            if not was_up:
                (scripted_cluster().kubeconfig.parent / MARK).touch()
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_up():  # between the two locks its last user may have left
            return scripted_cluster()


def _is_up() -> bool:
    return subprocess.run([SCRIPT, "env"], capture_output=True, check=False).returncode == 0


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """The session's cluster, found or started as the top of this file says.

    Raises:
        NoClusterError: There is none, and none can be started.
    """
    if truthy("SHARDGATE_TEST_CLUSTER"):
        yield given_cluster()
    elif not (reason := why_no_script()):
        with shared_scripted_cluster() as cluster:
            yield cluster
    elif shutil.which("kind") and shutil.which("docker"):
        cluster = kind_cluster(folder)
        try:
            yield cluster
        finally:
            subprocess.run(["kind", "delete", "cluster", "--name", "shardgate"], check=True)
    else:
        raise NoClusterError(f"no cluster: {reason}, and kind with Docker is not installed")
