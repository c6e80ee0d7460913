"""The user's own document, run word for word: its code blocks, with only the imports and the address changed."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = "003_ca8f29194bd5c630.txt"
IMPORTS = {
    "from aistore.sdk import Client": "from shardgate import Client",
    "from aistore.client.transform import WDTransform": "from shardgate import WDTransform",
    "from utils import": "from shardgate import",
}

pytestmark = [
    # Decoding and transforming 2 x 7 shards of photographs in one process and again in the workers.
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore:WebDataset.shardshuffle:UserWarning"),  # the document was written before it
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def seeds() -> Path:
    folders = [os.environ.get("SHARDGATE_SEEDS", ""), str(Path(__file__).parents[3] / "shared" / "seeds")]
    for folder in filter(None, folders):
        if (path := Path(folder) / DOCUMENT).is_file():
            return path
    pytest.skip(f"{DOCUMENT} is not beside this checkout; set SHARDGATE_SEEDS to its folder")


def code_blocks(endpoint: str) -> list[str]:
    """The document's Python blocks in an order that runs: it shows a call before the function that it takes."""
    blocks = re.findall(r"```python\n(.*?)```", seeds().read_text(), re.DOTALL)
    for old, new in IMPORTS.items():
        blocks = [block.replace(old, new) for block in blocks]
    blocks = [block.replace("http://aistore-sample-proxy:51080", endpoint) for block in blocks]
    first_call = next(i for i, block in enumerate(blocks) if "train_etl = WDTransform" in block)
    definition = next(i for i, block in enumerate(blocks) if block.startswith("def wd_transform"))
    blocks[first_call], blocks[definition] = blocks[definition], blocks[first_call]
    return blocks


@pytest.fixture
def namespace(embedded_imagenet: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs every block in one namespace, as a notebook would; `printed` holds what was printed."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("sys.argv", ["notebook"])
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in code_blocks(embedded_imagenet):
            exec(compile(block, DOCUMENT, "exec"), names)
    names["printed"] = printed.getvalue()
    return names


def test_the_documents_code_runs_word_for_word(namespace: dict[str, Any]) -> None:
    import torch

    assert "Initializing ETL...\nETL imagenet-train successfully initialized" in namespace["printed"]
    assert "ETL imagenet-val successfully initialized" in namespace["printed"]
    assert len(namespace["val_urls"]) == 6

    images, classes = next(iter(namespace["etl_loader"]))
    assert images.shape[1:] == (3, 224, 224)
    assert images.dtype == torch.float32
    assert len(images) == len(classes)

    val_samples = sum(len(batch) for batch, _ in namespace["val_loader"])
    assert val_samples == 6 * 12

    plain_samples = sum(len(batch) for batch, _ in namespace["loader"])
    etl_samples = sum(len(batch) for batch, _ in namespace["etl_loader"])
    assert plain_samples == etl_samples == 24


def test_the_gateways_validation_images_equal_those_of_the_function_in_process(namespace: dict[str, Any]) -> None:
    import numpy as np
    import webdataset as wds

    raw = namespace["client"].object_url("gcp://sharded-imagenet", "imagenet-val-000003.tar")
    here = wds.WebDataset(raw, shardshuffle=False).decode("pil").map(namespace["wd_val_transform"])
    there = wds.WebDataset(namespace["val_urls"][3], shardshuffle=False).decode()
    pairs = list(zip(here, there, strict=True))
    assert len(pairs) == 12
    for mine, theirs in pairs:
        assert mine["__key__"] == theirs["__key__"]
        assert mine["cls"] == theirs["cls"]
        np.testing.assert_array_equal(mine["npy"], theirs["npy"])
