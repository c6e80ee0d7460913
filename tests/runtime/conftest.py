"""Runtimes for tests. Starting one imports torch, so those that many tests can share are started once per module."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import Packed, Runtime, package_of, start_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _starter(factory: pytest.TempPathFactory, stack: ExitStack) -> Callable[..., Runtime]:
    def start(function: Any, *arguments: str, options: dict[str, Any] | None = None, **manifest: Any) -> Runtime:
        package: Packed = function if isinstance(function, tuple) else package_of(function, **manifest)
        folder = factory.mktemp("run")
        runtime = stack.enter_context(start_runtime(folder, package, *arguments, **(options or {})))
        runtime.wait_for("ready", "failed", "stopped")
        return runtime

    return start


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Runtime]]:
    """Start runtimes that live until the end of the test: `start(function, options={...}, **manifest)`."""
    with ExitStack() as stack:
        yield _starter(tmp_path_factory, stack)


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Runtime]]:
    """The same for the whole module."""
    with ExitStack() as stack:
        yield _starter(tmp_path_factory, stack)
