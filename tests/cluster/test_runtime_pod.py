"""A runtime in a real pod: what its image lacks, samples that take too much memory, the duties of pid 1."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from gateway_on_host import COMPONENT, TOKEN, HostGateway, gateway_on_host
from http_lab import Web, web
from package_index import options_for, publish

from cluster import wait_until
from shardgate import ShardgateError
from shardgate.capture import capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

TOKEN_HEADER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def index(cluster: Cluster) -> Iterator[Web]:
    with web(cluster.host) as state:
        publish(
            state, "probe-answer", "1.0", {"probe_answer.py": "from probe_number import NUMBER"}, ["probe-number>=1"]
        )
        publish(state, "probe-number", "1.0", {"probe_number.py": "NUMBER = 42"})
        yield state


@pytest.fixture(scope="module")
def gateway(
    cluster: Cluster, runtime_image: str, index: Web, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostGateway]:
    options = {"kubernetes.pip_options": json.dumps(options_for(index, cluster.host))}
    folder: Path = tmp_path_factory.mktemp("gateway")
    with (
        cluster.namespace("runtime") as namespace,
        gateway_on_host(cluster, namespace, runtime_image, folder, settings=options) as gateway,
    ):
        gateway.namespace = namespace
        gateway.put_shard("a.tar", samples=5, size=1000)
        yield gateway


def get(gateway: HostGateway, **query: Any) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        "GET", gateway.object_url("a.tar", **query), headers=TOKEN_HEADER, timeout=120, retries=False
    )


def register(gateway: HostGateway, function: Any, *requirements: str) -> str:
    _, package = capture(function, name=function.__name__, decoder="", extra_requirements=requirements)
    return str(gateway.client.transforms.register(package, cache="never")["id"])


def answer(sample: dict[str, Any]) -> Any:
    import probe_answer

    return {"__key__": sample["__key__"], "txt": str(probe_answer.NUMBER)}


def again(sample: dict[str, Any]) -> Any:
    import probe_answer

    return {"__key__": sample["__key__"], "txt": f"again {probe_answer.NUMBER}"}


def test_what_an_image_lacks_is_installed_once_and_every_pod_has_it(
    cluster: Cluster, gateway: HostGateway, index: Web
) -> None:
    began = time.monotonic()
    first = register(gateway, answer, "probe-answer==1.0")
    gateway.client.transforms.start(first)
    print(f"\nwith an environment to make: ready after {time.monotonic() - began:.1f} s")
    body = get(gateway, transform_id=first)
    assert body.status == 200
    assert body.data.count(b"42") == 5
    wheels = [path for _, path, _ in index.seen if path.endswith(".whl")]
    assert wheels

    began = time.monotonic()
    second = register(gateway, again, "probe-answer==1.0")
    gateway.client.transforms.start(second)
    print(f"with one that is there: ready after {time.monotonic() - began:.1f} s")
    assert get(gateway, transform_id=second).data.count(b"again 42") == 5
    assert [path for _, path, _ in index.seen if path.endswith(".whl")] == wheels
    assert cluster.get("jobs", namespace=gateway.namespace) == []


def test_an_upgrade_installs_what_the_new_image_lacks_before_it_rolls(cluster: Cluster, gateway: HostGateway) -> None:
    """What an image has decides what an environment holds, so other words about it are as good as another image."""
    id = register(gateway, answer, "probe-answer==1.0", "probe-number==1")  # noqa: A001
    gateway.client.transforms.start(id)
    whole = get(gateway, transform_id=id).data
    selector = f"{COMPONENT},shardgate.io/transform={id}"
    (before,) = cluster.get("pods", namespace=gateway.namespace, selector=selector)

    def rolled() -> bool:
        names = [pod["metadata"]["name"] for pod in cluster.get("pods", namespace=gateway.namespace, selector=selector)]
        return len(names) == 1 and names != [before["metadata"]["name"]]

    (image,) = json.loads(gateway.settings["kubernetes.images"])
    gateway.stop()
    gateway.settings["kubernetes.images"] = json.dumps([{**image, "provides": ["probe-number"]}])
    gateway.start()
    seconds = wait_until(rolled, 120, "the new pod alone")
    print(f"\nrolled {seconds:.1f} s after the gateway was back")
    assert get(gateway, transform_id=id).data == whole
    assert gateway.client.transforms.show(id)["state"] == "ready"
    gateway.client.transforms.delete(id)


def test_a_requirement_that_does_not_exist_fails_the_start_in_the_words_of_pip(gateway: HostGateway) -> None:
    began = time.monotonic()
    wrong = register(gateway, answer, "no-such-thing==1.0")
    with pytest.raises(ShardgateError, match=r"No matching distribution found for no-such-thing==1\.0"):
        gateway.client.transforms.start(wrong)
    print(f"\na requirement that does not exist was told after {time.monotonic() - began:.1f} s")


def behave(sample: dict[str, Any], args: str) -> Any:
    import mmap
    import os

    if sample["__key__"] == "000000" and args == "shared":  # memory that no limit of the process counts
        memory = mmap.mmap(-1, 4 << 30)
        for page in range(0, 4 << 30, 1 << 20):
            memory[page : page + (1 << 20)] = b"x" * (1 << 20)
    if sample["__key__"] == "000000" and args == "private":
        sample["bin"] = bytearray(4 << 30)
    if args == "orphans":
        child = os.fork()
        if not child:
            os.fork()  # its parent ends at once, so it is pid 1 who hears of its end
            os._exit(0)
        os.waitpid(child, 0)
    return sample


COUNT = """
import glob
states = [open(path).read().rpartition(")")[2].split()[0] for path in glob.glob("/proc/[0-9]*/stat")]
print(states.count("Z"))
"""


def test_a_sample_that_takes_all_memory_is_named_and_the_pod_lives_on(cluster: Cluster, gateway: HostGateway) -> None:
    began = time.monotonic()
    id = gateway.register(behave, workers=2, resources={"memory": "300Mi", "cpu": "1"})  # noqa: A001
    print(f"\nready after {time.monotonic() - began:.1f} s")
    whole = get(gateway, transform_id=id, args="none")
    assert whole.status == 200
    for args, reason in (("private", "MemoryError"), ("shared", "SIGKILL")):
        began = time.monotonic()
        failed = get(gateway, transform_id=id, args=args)
        assert failed.status == 422, failed.data
        said = failed.json()
        assert reason in said["message"] or "killed with its whole container" in said["message"], said
        assert '(sample 0, "000000"' in said["message"], said
        print(f"{args}: {said['message'].splitlines()[0]} (after {time.monotonic() - began:.1f} s)")
    assert get(gateway, transform_id=id, args="none").data == whole.data
    (pod,) = cluster.get("pods", namespace=gateway.namespace, selector=f"{COMPONENT},shardgate.io/transform={id}")
    print(f"restarts of its container: {pod['status']['containerStatuses'][0]['restartCount']}")

    assert get(gateway, transform_id=id, args="orphans").status == 200
    name = pod["metadata"]["name"]
    counted = ("exec", name, "--", "python", "-c", COUNT)
    wait_until(
        lambda: cluster.kubectl(*counted, namespace=gateway.namespace).strip() == "0", 30, "zombies to be buried"
    )
