"""Three gateways for a module, and the store behind them that counts what is fetched."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from gateway_cluster import Gateways, running_cluster
from servers_faulty import FaultyOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "http://b"


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, origin: FaultyOrigin) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("cluster")
    files = folder / "files"
    files.mkdir()
    buckets = {BUCKET: origin.url, "file://f": {"where": str(files), "freshness": "immutable"}}
    with running_cluster(folder, buckets, settings={"cluster.hot_requests": 1000}) as gateways:
        yield gateways


_count = itertools.count()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """An object name that no other test uses."""
    return f"{request.node.originalname}-{next(_count)}.tar"
