"""What a user of a notebook sees, in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from notebook_cells import pictures, run_cells
from shards import picture_shard

if TYPE_CHECKING:
    from pathlib import Path

    from fake_gateway import FakeGateway

SHARD = """
import shardgate
client = shardgate.Client({url!r})
shardgate.display_shard_images(client, "gcp://b", "train.tar")
"""
LOADER = """
import numpy as np
shardgate.display_loader_images([(np.zeros((8, 9, 3), "uint8"), 1)])
"""


@pytest.mark.parametrize("before", ["", "%matplotlib inline", "import matplotlib.pyplot as plt; plt.plot([1, 2]);"])
def test_a_picture_appears_exactly_once(gateway: FakeGateway, tmp_path: Path, before: str) -> None:
    gateway.objects["gcp://b/train.tar"] = picture_shard(2)
    _, *shown, last = run_cells([before, SHARD.format(url=gateway.url), LOADER, "plt = 1"], tmp_path)
    assert [pictures(outputs) for outputs in shown] == [1, 1], shown
    assert last == []
