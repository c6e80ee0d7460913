"""A gateway on this machine whose transforms run in pods of a real cluster: only the runtime's image is needed.

with gateway_on_host(cluster, namespace, runtime_image, tmp_path) as gateway:
    gateway.put_shard("a.tar", samples=100, size=20_000)
    gateway.register(function, min_replicas=2)
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import urllib3
from gateway_process import GatewayProcess

from shardgate import Client
from shardgate.capture import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cluster import Cluster

TOKEN = "a-token-for-tests"
BUCKET = "gcp://shards"
INSTANCE = "t"
COMPONENT = "app.kubernetes.io/component=etl"


class HostGateway(GatewayProcess):
    """A gateway process that pods reach, too."""

    def __init__(self, cluster: Cluster, namespace: str, image: str, folder: Path, **options: Any) -> None:
        self.shards = folder / "shards"
        self.shards.mkdir(parents=True, exist_ok=True)
        settings = options.pop("settings", {})
        super().__init__(folder, {BUCKET: self.shards}, **options)
        self.host = cluster.host
        self.namespace = namespace
        self.settings |= {
            "serve.host": cluster.host,
            "serve.token": TOKEN,
            "serve.public_url": self.endpoint,
            "auth.signing_key": "k" * 32,
            "etl.runner": "kubernetes",
            "kubernetes.kubeconfig": str(cluster.kubeconfig),
            "kubernetes.namespace": namespace,
            "kubernetes.instance": INSTANCE,
            "kubernetes.images": json.dumps([{"image": image, "python": "3.11"}]),
            "kubernetes.memory": "512Mi",
            "kubernetes.cpu_request_share": 0.1,
            **settings,
        }

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.endpoint, token=TOKEN)

    def put_shard(self, name: str, *, samples: int, size: int) -> None:
        with tarfile.open(self.shards / name, "w") as tar:
            for index in range(samples):
                data = hashlib.shake_128(str(index).encode()).digest(size)
                info = tarfile.TarInfo(f"{index:06}.bin")
                info.size = size
                tar.addfile(info, io.BytesIO(data))

    def register(self, function: Callable[..., Any], *, start: bool = True, **options: Any) -> str:
        """A transform over undecoded samples, none of whose results is kept; its id."""
        _, package = capture(function, name=function.__name__.replace("_", "-"), decoder="")
        client = self.client
        given = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in options.items()}
        id = str(client.transforms.register(package, cache="never", **given)["id"])  # noqa: A001
        if start:
            client.transforms.start(id)
        return id

    def object_url(self, key: str, **query: Any) -> str:
        return self.url(BUCKET, key, **query)


@contextmanager
def gateway_on_host(
    cluster: Cluster, namespace: str, image: str, folder: Path, **options: Any
) -> Iterator[HostGateway]:
    """A started gateway. Fails if its log has a traceback at the end."""
    gateway = HostGateway(cluster, namespace, image, folder, **options)
    try:
        gateway.start()
        yield gateway
        before, found, after = gateway.said.partition("Traceback (most recent call last)")
        assert not found, before[-1000:] + found + after[:7000]
    finally:
        gateway.close()


@dataclass
class Readers:
    """Readers that each read one URL after the other, until `stop`, and compare every byte.

    Attributes:
        bodies: Read to the end and found right.
        pause: The longest time between two parts of a body, in seconds.
        wait: The longest time from a request to the first part.
        problems: What went wrong.
    """

    url: str
    digest: str
    count: int
    bodies: int = 0
    pause: float = 0.0
    wait: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._read_on, daemon=True) for _ in range(self.count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads), "a reader hangs"

    def forget(self) -> None:
        """Measure pauses from now on."""
        with self._lock:
            self.pause = self.wait = 0.0

    def _read_on(self) -> None:
        while not self._stop.is_set():
            try:
                digest = self._read()
            except urllib3.exceptions.HTTPError as error:
                digest = f"{type(error).__name__}: {error}"
            with self._lock:
                if digest == self.digest:
                    self.bodies += 1
                else:
                    self.problems.append(digest)

    def _read(self) -> str:
        asked = time.monotonic()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        response = urllib3.request("GET", self.url, headers=headers, preload_content=False, retries=False, timeout=90)
        with response:
            if response.status != 200:
                return f"{response.status} {response.read()!r}"
            digest, last = hashlib.sha256(), None
            for part in response.stream(1 << 16):
                now = time.monotonic()
                with self._lock:
                    if last is None:
                        self.wait = max(self.wait, now - asked)
                    else:
                        self.pause = max(self.pause, now - last)
                digest.update(part)
                last = now
            return digest.hexdigest()
