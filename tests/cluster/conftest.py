"""What tests on a real cluster share; `tests/support/cluster.py` says where the cluster comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster_images import image

from cluster import Cluster, NoClusterError, running_cluster, truthy

if TYPE_CHECKING:
    from collections.abc import Iterator


LIMIT_SECONDS = 900
"""The first test pays for starting the cluster and building the images."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
            cluster.recycle_volumes()
            yield cluster
    except NoClusterError as error:
        if truthy("SHARDGATE_REQUIRE_CLUSTER"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own. A module whose tests share one uses `cluster.namespace` in a fixture."""
    with cluster.namespace("test") as name:
        yield name


@pytest.fixture(scope="session")
def gateway_image(cluster: Cluster) -> str:
    return image(cluster, "gateway")


@pytest.fixture(scope="session")
def runtime_image(cluster: Cluster) -> str:
    return image(cluster, "runtime")


@pytest.fixture(scope="session")
def torch_image(cluster: Cluster) -> str:
    return image(cluster, "runtime-torch")
