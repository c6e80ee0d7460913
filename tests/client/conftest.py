"""A fake gateway for each test, and the client that talks to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_gateway import FakeGateway, fake_gateway

from shardgate import Client, download

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    monkeypatch.delenv("SHARDGATE_TOKEN", raising=False)
    with fake_gateway() as state:
        monkeypatch.setenv("SHARDGATE_ENDPOINT", state.url)
        yield state


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    with Client(gateway.url, timeout=10) as client:
        yield client
