"""Members by the EndpointSlices of a Service: the pods that are ready, named as they are called.

Kubernetes tells at once when a pod is deleted, starts, or fails its probe, so a gateway that shuts down is left alone
before it stops answering, and a pod of a StatefulSet comes back under its own name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardgate_gateway.cluster.membership import Membership, url_of
from shardgate_gateway.kube.kinds import ENDPOINT_SLICE
from shardgate_gateway.kube.watch import Reflector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from shardgate_gateway.kube.client import KubeApi
    from shardgate_gateway.kube.kinds import Object


class SliceMembership(Membership):
    """Everybody behind a Service.

    Args:
        api: Where the Service is.
        service: Its name; its one port, or the one called `http`, is the gateway's.
    """

    def __init__(self, api: KubeApi, service: str) -> None:
        super().__init__()
        self._slices = Reflector(api, ENDPOINT_SLICE, f"kubernetes.io/service-name={service}")

    async def __aenter__(self) -> Self:
        self._slices.subscribe(lambda _: self._set(members_of(self._slices.items.values())))
        await self._slices.__aenter__()
        await self._slices.wait_until_synced()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._slices.__aexit__()


def members_of(slices: Iterable[Object]) -> dict[str, str]:
    """URLs of ready pods by name. An endpoint may be in two slices for a moment; both say the same."""
    found = {}
    for part in slices:
        ports = {port.get("name") or "": port["port"] for port in part.get("ports") or ()}
        port = ports.get("http", next(iter(ports.values()), None))
        for endpoint in part.get("endpoints") or ():
            name = (endpoint.get("targetRef") or {}).get("name")
            if port and name and endpoint.get("conditions", {}).get("ready"):
                found[name] = url_of(endpoint["addresses"][0], port)
    return found
