"""A reflector against the real API server: it never loses track, whatever happens to its connection.

Between the reflector and the API server stands a proxy that the test can cut or freeze, so that nobody else's
connections suffer.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from shardgate_gateway.errors import KubernetesError, KubernetesUnavailable
from shardgate_gateway.kube import watch
from shardgate_gateway.kube.client import KubeApi, open_api
from shardgate_gateway.kube.kinds import SECRET, Object, kind_of, labels_of
from shardgate_gateway.kube.watch import Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster")]

GENEROUS_SECONDS = 60


class Proxy:
    """Passes TCP connections on; all of them can be cut, new ones refused, and bytes held back."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.refusing = False
        self.flowing = asyncio.Event()
        self.flowing.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            self.flowing.set()
            self.cut()
            server.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(*self._target)
            self._writers |= {writer, back}
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)
            writer.transport.abort()
            back.transport.abort()
            self._writers -= {writer, back}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            await self.flowing.wait()
            sink.write(data)
            await sink.drain()
        sink.transport.abort()


class Lab:
    """A reflector of Secrets behind a proxy, and a way around it to change them."""

    def __init__(self, proxy: Proxy, direct: KubeApi, proxied: KubeApi, reflector: Reflector) -> None:
        self.proxy = proxy
        self.direct = direct
        self.proxied = proxied
        self.reflector = reflector
        self.told: list[str] = []
        reflector.subscribe(self.told.append)

    async def sees(self, *names: str) -> None:
        async with asyncio.timeout(GENEROUS_SECONDS):
            while sorted(self.reflector.items) != sorted(names):
                await asyncio.wait({asyncio.ensure_future(self.reflector.wait_for_change())}, timeout=0.2)


def secret(name: str, team: str = "a", **data: str) -> Object:
    metadata = {"name": name, "labels": {"watched": "yes", "team": team}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


@pytest.fixture
async def lab(cluster: Cluster, namespace: str) -> AsyncIterator[Lab]:
    async with open_api(str(cluster.kubeconfig), namespace) as direct:
        target = urlsplit(direct._client.configuration.host)
        proxy = Proxy(target.hostname or "", target.port or 443)
        async with proxy.running() as port, open_api(str(cluster.kubeconfig), namespace) as proxied:
            configuration = proxied._client.configuration
            configuration.host = f"https://127.0.0.1:{port}"
            configuration.tls_server_name = target.hostname
            for name in ("one", "two"):
                await direct.apply(secret(name))
            await direct.apply({**secret("other"), "metadata": {"name": "other"}})
            async with Reflector(
                proxied, SECRET, "watched=yes", group=lambda obj: labels_of(obj).get("team", "")
            ) as reflector:
                lab = Lab(proxy, direct, proxied, reflector)
                await asyncio.wait_for(reflector.wait_until_synced(), GENEROUS_SECONDS)
                yield lab


async def test_it_has_what_there_is_and_tells_what_changes(lab: Lab) -> None:
    await lab.sees("one", "two")
    assert set(lab.reflector.group("a")) == {"one", "two"}
    await lab.direct.apply(secret("three", team="b"))
    await lab.sees("one", "three", "two")
    assert set(lab.reflector.group("b")) == {"three"}
    await lab.direct.apply(secret("three", team="a"))
    async with asyncio.timeout(GENEROUS_SECONDS):
        while lab.reflector.group("b"):
            await lab.reflector.wait_for_change()
    assert await lab.direct.delete(SECRET, "one")
    assert not await lab.direct.delete(SECRET, "one")
    await lab.sees("three", "two")
    assert lab.told.count("b") == 2
    assert "managedFields" not in lab.reflector.items["two"]["metadata"]


async def test_a_dropped_connection_costs_nothing(lab: Lab) -> None:
    await lab.sees("one", "two")
    lab.proxy.refusing = True
    lab.proxy.cut()
    await lab.direct.apply(secret("three"))
    await lab.direct.delete(SECRET, "one")
    with pytest.raises(KubernetesUnavailable, match="does not answer"):
        await lab.proxied.get(SECRET, "two")
    assert sorted(lab.reflector.items) == ["one", "two"], "what was true last stays readable"
    lab.proxy.refusing = False
    await lab.sees("three", "two")


async def test_a_version_that_the_server_has_forgotten_leads_to_a_new_list(lab: Lab) -> None:
    await lab.sees("one", "two")
    lab.proxy.refusing = True
    lab.proxy.cut()
    await lab.direct.delete(SECRET, "two")
    await lab.direct.apply(secret("three"))
    lab.reflector._version = "1"  # what etcd has compacted long ago
    lab.proxy.refusing = False
    await lab.sees("one", "three")


async def test_a_server_that_falls_silent_is_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 1.0)
    await lab.direct.apply(secret("three"))
    await lab.sees("one", "three", "two")  # a watch that has answered is not asked for again by aiohttp itself
    lab.proxy.cut()  # the next one has the short patience
    await lab.direct.delete(SECRET, "three")
    await lab.sees("one", "two")
    lab.proxy.flowing.clear()
    await lab.direct.apply(secret("four"))
    await asyncio.sleep(2)
    frozen, lab.proxy.flowing = lab.proxy.flowing, asyncio.Event()
    lab.proxy.flowing.set()
    await lab.sees("four", "one", "two")
    assert not frozen.is_set(), "the silent connection never spoke again"
    frozen.set()


async def test_refusals_carry_kubernetes_own_words(lab: Lab) -> None:
    wrong: dict[str, Any] = secret("Not_A_Name")
    with pytest.raises(KubernetesError, match="Not_A_Name") as refused:
        await lab.direct.request("POST", kind_of(wrong).path(lab.direct.namespace), body=wrong)
    assert refused.value.status == 422
    assert refused.value.reason == "Invalid"
    stale = {"metadata": {"resourceVersion": "1", "annotations": {"a": "b"}}}
    with pytest.raises(KubernetesError, match="has been modified") as refused:
        await lab.direct.patch(SECRET, "one", stale)
    assert refused.value.status == 409
    assert await lab.direct.get(SECRET, "nowhere") is None
