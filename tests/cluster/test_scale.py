"""A thousand gateways, five hundred transforms, ten thousand pods: what a gateway does about them stays bounded.

The machines are pretended (`kwok.py`); the API server, its controllers and all of ours are real. Placement is compared
with throwing dice, the fairest there is; names alone decide it, so its numbers are the same in every run.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import pytest
from gateway_on_host import INSTANCE, HostGateway, gateway_on_host
from kwok import PretendedNodes, clear, create_all, pretended_nodes
from scale_lab import HEADERS, PODS, REPLICAS, TRANSFORMS, Calls, Clock, Lab, calls_in, resident, until

from cluster import Cluster, wait_until
from shardgate_gateway import metrics
from shardgate_gateway.cluster.placement import rank
from shardgate_gateway.cluster.slices import SliceMembership
from shardgate_gateway.etl.kubernetes.view import open_view
from shardgate_gateway.kube.client import PAGE, open_api
from shardgate_gateway.kube.kinds import POD, Object

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.slow,  # ten thousand pods are ten thousand objects of a real API server
]

GATEWAYS = 1000
BATCH = 100
OBJECTS = 20_000
QUIET_SECONDS = 20
MEGABYTES = 150
"""Of a gateway process, beyond what it has with nothing to watch."""
REACTION_SECONDS = 10.0
ROUTED_SECONDS = 60.0
"""The controller of EndpointSlices has to come to it, too, and writes 20 a second."""
STALL_SECONDS = 5.0
SYNC_SECONDS = 60.0


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendedNodes]:
    with pretended_nodes(cluster, tmp_path_factory.mktemp("kwok")) as nodes:
        yield nodes


@pytest.fixture
def crowded(cluster: Cluster, nodes: PretendedNodes) -> Iterator[str]:
    """A namespace for thousands of pods."""
    with cluster.namespace("scale") as name:
        wait_until(lambda: "default" in cluster.kubectl("get", "serviceaccounts", namespace=name), 60, "its account")
        try:
            yield name
        finally:
            print(f"cleared in {clear(cluster, name):.0f} s")


async def test_a_thousand_gateways_share_objects_evenly_and_only_those_of_who_leaves_move(
    cluster: Cluster, nodes: PretendedNodes, crowded: str
) -> None:
    async with open_api(str(cluster.kubeconfig), crowded) as api:
        pods = (nodes.bind(f"gateway-{i}", gateway_pod(batch=i // BATCH)) for i in range(GATEWAYS))
        await create_all(api, pods)
        cluster.apply(GATEWAYS_SERVICE, namespace=crowded)
        before_looking = own_calls()
        async with SliceMembership(api, "gateways") as membership:
            await until(lambda: len(membership.urls) == GATEWAYS)
            before = await asyncio.to_thread(owners, membership.urls)
            shares = Counter(before.values())
            mean = OBJECTS / GATEWAYS
            dice = sum((shares[name] - mean) ** 2 for name in membership.urls) / mean / (GATEWAYS - 1)
            print(f"\n{GATEWAYS} gateways share {OBJECTS} objects: {mean:.0f} each, {min(shares.values())} to", end=" ")
            print(f"{max(shares.values())}; the variance is {dice:.2f} times that of dice")
            assert dice < 1.2
            assert max(shares.values()) < mean + 6 * mean**0.5

            asked = time.monotonic()
            await api.delete(POD, "gateway-137")
            await until(lambda: len(membership.urls) == GATEWAYS - 1)
            print(f"one leaves: known after {time.monotonic() - asked:.2f} s")
            after = await asyncio.to_thread(owners, membership.urls)
            assert moved(before, after) == {thing for thing, owner in before.items() if owner == "gateway-137"}

            asked = time.monotonic()
            await api.request("DELETE", POD.path(crowded), query={"labelSelector": "batch=7"})
            await until(lambda: len(membership.urls) == GATEWAYS - 1 - BATCH)
            known = time.monotonic() - asked
            fewest = await asyncio.to_thread(owners, membership.urls)
            gone = moved(after, fewest)
            ratio = len(gone) / OBJECTS / (BATCH / (GATEWAYS - 1))
            print(f"{BATCH} leave: known after {known:.2f} s; {ratio:.3f} times 1/N of the objects moved for each")
            assert gone == {thing for thing, owner in after.items() if owner not in membership.urls}
            assert ratio <= 1.1
            looked = own_calls() - before_looking
            print(f"requests for the membership: {looked['GET', 'endpointslices']}")
            assert looked["GET", "endpointslices"] <= 5


async def test_five_hundred_transforms_with_ten_thousand_pods_cost_a_gateway_little(
    cluster: Cluster, nodes: PretendedNodes, crowded: str, tmp_path: Path
) -> None:
    settings = {"kubernetes.max_replicas": REPLICAS}
    with gateway_on_host(cluster, crowded, "registry.example/runtime:1", tmp_path, settings=settings) as gateway:
        async with (
            open_api(str(cluster.kubeconfig), crowded) as api,
            open_view(api, INSTANCE) as view,
            aiohttp.ClientSession(headers=HEADERS, connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            lab, clock = Lab(gateway, api, view, http), Clock()
            await asyncio.to_thread(lab.register)
            clock.lap(f"\n{TRANSFORMS} transforms registered")
            empty = resident(gateway)
            await lab.start(nodes)
            print_memory("while they started", gateway, empty)

            await lab.until_quiet()
            calls = await lab.calls()
            print(f"requests for {TRANSFORMS} starts: {dict(calls)}")
            assert sum(count for (method, _), count in calls.items() if method == "PATCH") <= 5 * TRANSFORMS
            assert calls["GET", "pods"] <= 2 * PODS / PAGE

            longest = await lab.longest_answer(QUIET_SECONDS)
            quiet = {what: count for what, count in (await lab.calls() - calls).items() if "leases" not in what}
            print(f"{QUIET_SECONDS} s of quiet: {quiet or 'no'} requests but for the Lease;", end=" ")
            print(f"the longest answer took {longest:.3f} s")
            assert sum(quiet.values()) <= QUIET_SECONDS
            assert longest < STALL_SECONDS

            for what, reaction in (await lab.reactions(nodes)).items():
                print(f"a pod is {what}: seen after {reaction.seen:.2f} s,", end=" ")
                print(f"routed {reaction.routed:.2f} s, told {reaction.told:.2f} s")
                assert max(reaction.seen, reaction.told) < REACTION_SECONDS
                assert reaction.routed < ROUTED_SECONDS

            gateway.stop()
            gateway.start()
            clock = Clock()
            await lab.until_told()
            assert clock.lap("a new gateway knows everything") < SYNC_SECONDS
            print_memory("when it is listed", gateway, empty)
            read = {resource: count for (method, resource), count in (await lab.calls()).items() if method == "GET"}
            print(f"requests for that: {read}")
            assert read["pods"] <= PODS / PAGE + 2


def print_memory(when: str, gateway: HostGateway, empty: int) -> None:
    grown = resident(gateway) - empty
    print(
        f"a gateway has {empty >> 20} MB, and {grown >> 20} MB more {when}: {grown / PODS / 1024:.1f} KB for each pod"
    )
    assert grown < MEGABYTES << 20


def owners(members: Collection[str]) -> dict[str, str]:
    return {thing: rank(members, thing, 1)[0] for thing in (f"train-{i:06}.tar" for i in range(OBJECTS))}


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {thing for thing, owner in before.items() if after[thing] != owner}


def own_calls() -> Calls:
    return calls_in(metrics.scrape().decode())


def gateway_pod(batch: int) -> Object:
    """What a pod needs to be one of the gateways, and to be admitted."""
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "gateway", "image": "registry.example/gateway:1", "securityContext": security}
    return {"metadata": {"labels": {"app": "gateway", "batch": str(batch)}}, "spec": {"containers": [container]}}


GATEWAYS_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "gateways"},
    "spec": {"clusterIP": "None", "selector": {"app": "gateway"}, "ports": [{"name": "http", "port": 51080}]},
}
