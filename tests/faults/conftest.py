"""Whole gateways to attack, and the stores behind them.

A gateway takes seconds to start on a busy machine. So tests that leave it as it was share one for their module
(`start_shared_gateway`), each with objects of its own (`key`); tests that kill or starve one start their own.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from gateway_process import GatewayProcess, running_gateway
from servers_faulty import FaultyOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
PATIENCE = {
    "upstream.backoff_seconds": 0.02,
    "upstream.attempts": 4,
    "upstream.progress_timeout": 2,
    "serve.drain_seconds": 1,
    "etl.workers": 2,
}
"""The defaults wait longer than a test wants to."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, keep the tests of a module in one: they share a gateway."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


class StartGateway(Protocol):
    def __call__(self, buckets: Mapping[str, Any], **options: Any) -> GatewayProcess: ...


def starter(folders: Callable[[str], Path], stack: ExitStack) -> StartGateway:
    count = itertools.count()

    def start(buckets: Mapping[str, Any], **options: Any) -> GatewayProcess:
        settings = {**PATIENCE, **options.pop("settings", {})}
        folder = folders(f"gateway-{next(count)}")
        return stack.enter_context(running_gateway(folder, buckets, settings=settings, **options))

    return start


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Start a gateway for one test; the options are those of `running_gateway`."""
    with ExitStack() as stack:
        yield starter(lambda name: tmp_path / name, stack)


@pytest.fixture(scope="module")
def start_shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Start a gateway for all tests of a module."""
    with ExitStack() as stack:
        yield starter(tmp_path_factory.mktemp, stack)


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultyOrigin]:
    with FaultyOrigin() as running:
        yield running


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """An object name that no other test uses."""
    return f"{abs(hash(request.node.nodeid)):x}.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to be a bucket."""
    path = tmp_path / "bucket"
    path.mkdir()
    return path
