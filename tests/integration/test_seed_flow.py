"""The user's own document, run word for word on this machine; tests/cluster/test_seed.py runs it in a cluster."""

from __future__ import annotations

from typing import Any

import pytest
import seed_document

pytestmark = [
    # Decoding and transforming 2 x 7 shards of photographs in one process and again in the workers.
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore:WebDataset.shardshuffle:UserWarning"),  # the document was written before it
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def namespace(embedded_imagenet: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the document defines."""
    document = seed_document.find()
    if document is None:
        pytest.skip(f"{seed_document.NAME} is not beside this checkout; set SHARDGATE_SEEDS to its folder")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr("sys.argv", ["notebook"])
    return seed_document.run(document.read_text(), embedded_imagenet)


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
