"""Several gateways on this machine, as real processes that know each other by a static list.

with running_cluster(tmp_path, {"http://b": origin.url}) as cluster:
    cluster["b"].url("http://b", "a.tar")     # through gateway b, whoever owns the object
    cluster["a"].kill()
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gateway_process import GatewayProcess

from shardgate_gateway.cache.source import entry_name
from shardgate_gateway.cluster.placement import rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SETTINGS = {
    "upstream.backoff_seconds": 0.02,
    "serve.drain_seconds": 5,
    "etl.workers": 1,
    "cluster.membership": "static",
}


class Gateways(dict[str, GatewayProcess]):
    """Gateways by name, as they stand in the settings of each."""

    def ranked(self, bucket: str, key: str) -> list[str]:
        """Names in the order in which an object belongs to them."""
        provider, _, name = bucket.partition("://")
        return rank(list(self), entry_name("object", provider, name, key), len(self))

    def others(self, bucket: str, key: str) -> list[str]:
        """All but the owner, in rank."""
        return self.ranked(bucket, key)[1:]

    def endpoint(self) -> str:
        return ",".join(gateway.endpoint for gateway in self.values())


@contextmanager
def running_cluster(
    folder: Path,
    buckets: Mapping[str, Any],
    *,
    names: str = "abc",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Gateways]:
    """Started gateways of one database, each with a cache of its own. The options are those of `GatewayProcess`."""
    shared = {
        "state.database": f"sqlite:///{folder / 'shared.db'}",
        "state.packages": str(folder / "packages"),
        **SETTINGS,
        **(settings or {}),
    }
    with ExitStack() as stack:
        cluster = Gateways()
        for name in names:
            gateway = GatewayProcess(folder / name, buckets, settings=shared, **options)
            gateway.settings["cluster.name"] = name
            cluster[name] = gateway
        members = json.dumps({name: gateway.endpoint for name, gateway in cluster.items()})
        for gateway in cluster.values():
            gateway.settings["cluster.members"] = members
            stack.callback(gateway.close)
        for gateway in cluster.values():
            gateway.launch()
        for gateway in cluster.values():
            gateway.wait()
        yield cluster
        for gateway in cluster.values():
            assert "Traceback (most recent call last)" not in gateway.said, gateway.said[-8000:]
