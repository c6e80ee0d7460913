"""One leads at a time: contenders for a Lease of the real API server."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from shardgate_gateway.etl.kubernetes.lease import DURATION_SECONDS, Lease
from shardgate_gateway.kube.client import open_api
from shardgate_gateway.kube.kinds import LEASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cluster import Cluster
    from shardgate_gateway.kube.client import KubeApi

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

NAME = "test"
TAKEOVER_SECONDS = DURATION_SECONDS + 20
"""With room for a busy machine."""


@dataclass
class Contender:
    """Somebody who wants to lead, and writes down who led when."""

    name: str
    api: KubeApi
    leaders: list[str]
    led: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lease = Lease(self.api, NAME, self.name, self._metadata)
        self.task = asyncio.create_task(self.lease.run(self._lead))

    async def _metadata(self) -> dict[str, Any]:
        return {"labels": {"made-by": self.name}}

    async def _lead(self) -> None:
        self.leaders.append(self.name)
        self.led.append(",".join(self.leaders))
        try:
            await asyncio.Event().wait()
        finally:
            self.leaders.remove(self.name)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def contender(cluster: Cluster, namespace: str, name: str, leaders: list[str]) -> AsyncIterator[Contender]:
    async with open_api(str(cluster.kubeconfig), namespace) as api:
        one = Contender(name, api, leaders)
        try:
            yield one
        finally:
            await one.end()


async def until_leads(leaders: list[str], name: str) -> float:
    began = time.monotonic()
    async with asyncio.timeout(TAKEOVER_SECONDS):
        while leaders != [name]:  # noqa: ASYNC110 (seconds, and no event to wait for in both directions)
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_who_is_cut_off_stops_before_the_next_leads_and_who_ends_gives_the_lease_up(
    cluster: Cluster, namespace: str
) -> None:
    leaders: list[str] = []
    async with contender(cluster, namespace, "a", leaders) as a:
        await until_leads(leaders, "a")
        async with contender(cluster, namespace, "b", leaders) as b:
            await asyncio.sleep(1.2 * DURATION_SECONDS)
            assert leaders == ["a"], "a Lease that is renewed stays where it is"
            await cut_off(a.api)
            print(f"the holder was cut off: another leads after {await until_leads(leaders, 'b'):.1f} s")
            assert b.led == ["b"], "nobody else led at that moment"
            async with contender(cluster, namespace, "c", leaders) as c:
                await asyncio.sleep(3)
                await b.end()
                print(f"the holder ended: another leads after {await until_leads(leaders, 'c'):.1f} s")
                lease = await c.api.get(LEASE, NAME)
                assert lease is not None
                assert lease["spec"]["holderIdentity"] == "c"
                assert lease["spec"]["leaseTransitions"] == 2
                assert lease["metadata"]["labels"] == {"made-by": "a"}
    assert leaders == []


async def cut_off(api: KubeApi) -> None:
    """From now on its requests go to a port where nobody listens."""
    api._client.configuration.host = "https://127.0.0.1:1"
