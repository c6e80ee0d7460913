"""What a user of a notebook sees, in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from notebook_cells import pictures, run_cells, text
from shards import picture_shard

from shardgate import Client, GatewayUnreachable

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


def test_an_embedded_gateway_serves_several_cells_and_ends_with_the_kernel(tmp_path: Path) -> None:
    pytest.importorskip("shardgate_gateway.app")
    (tmp_path / "data").mkdir()
    cells = [
        "import shardgate; gateway = shardgate.embedded({'gcp://b': 'data'})",
        "gateway.client.put('gcp://b', 'k', b'body'); print(gateway.client.endpoint)",
        "gateway.client.get('gcp://b', 'k')",
        "shardgate.embedded({'gcp://b': 'dta'})",
    ]
    _, where, got, wrong = run_cells(cells, tmp_path)
    assert "b'body'" in text(got)
    assert "the folder of the bucket gcp://b does not exist" in text(wrong)
    with pytest.raises(GatewayUnreachable):
        Client(text(where).strip()).buckets()
