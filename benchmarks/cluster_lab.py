"""What the benchmarks of a cluster share: a gateway on this machine whose transforms run in pods, and its pods."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cluster_images import image
from gateway_on_host import COMPONENT, gateway_on_host

from benchmarks import pod_functions
from cluster import ready, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway_on_host import HostGateway

    from benchmarks.bench import Bench
    from cluster import Cluster

GENEROUS_SECONDS = 180


@dataclass
class Lab:
    """A cluster, and what of ours runs in it."""

    cluster: Cluster

    @cached_property
    def runtime_image(self) -> str:
        return image(self.cluster, "runtime")

    @contextmanager
    def gateway(self, bench: Bench, name: str, **settings: Any) -> Iterator[HostGateway]:
        """One with a namespace of its own, and with the runtime's image on every node."""
        with (
            self.cluster.namespace(f"bench-{name}") as namespace,
            gateway_on_host(
                self.cluster, namespace, self.runtime_image, bench.folder(name), settings=settings
            ) as gateway,
        ):
            self._pull(gateway)
            yield gateway

    def pods(self, gateway: HostGateway, name: str = "") -> list[dict[str, Any]]:
        """Those that are ready and not about to end: of all transforms, or of the one of this name."""
        selector = COMPONENT + (f",shardgate.io/name={name}" if name else "")
        found = self.cluster.get("pods", namespace=gateway.namespace, selector=selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and ready(pod)]

    def until_ready(self, gateway: HostGateway, count: int) -> None:
        wait_until(lambda: len(self.pods(gateway)) >= count, GENEROUS_SECONDS, f"{count} pods to be ready")

    def unpacked_megabytes(self, pod: dict[str, Any]) -> int:
        """Size of the file system of a pod's image, in units of 10^6 bytes, as `du` counts it in the pod."""
        meta, look = pod["metadata"], "du -sxB1000000 --apparent-size / 2>/dev/null || true"
        printed = self.cluster.kubectl("exec", meta["name"], "--", "sh", "-c", look, namespace=meta["namespace"])
        return int(printed.split()[0])

    def _pull(self, gateway: HostGateway) -> None:
        nodes = len(self.cluster.nodes)
        transform = gateway.register(pod_functions.unchanged, replicas=nodes)
        self.until_ready(gateway, nodes)
        gateway.client.transforms.delete(transform)
        wait_until(lambda: not self.pods(gateway), GENEROUS_SECONDS, "the pods to end")
