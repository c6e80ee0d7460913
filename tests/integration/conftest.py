"""A gateway with the bucket that the user's document reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gateway_process import running_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def embedded_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a gateway whose `gcp://sharded-imagenet` holds photographs in ImageNet's layout."""
    from shardgate.demo.shards import make_shards

    home = tmp_path_factory.mktemp("imagenet")
    make_shards(home / "bucket", samples=24, val_shards=6, val_samples=12, done=lambda: None)
    with running_gateway(home / "gateway", {"gcp://sharded-imagenet": home / "bucket"}, torch=True) as gateway:
        yield gateway.endpoint
