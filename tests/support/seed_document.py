"""The user's own document, run word for word: its code blocks, with only the imports and the address changed.

    python seed_document.py DOCUMENT ENDPOINT

runs them as a notebook would, and prints what came of them as JSON. It needs nothing of this repository but the client,
so that a pod can run it, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import linecache
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

NAME = "003_ca8f29194bd5c630.txt"
IMPORTS = {
    "from aistore.sdk import Client": "from shardgate import Client",
    "from aistore.client.transform import WDTransform": "from shardgate import WDTransform",
    "from utils import": "from shardgate import",
}
ADDRESS = "http://aistore-sample-proxy:51080"
BUCKET = "gcp://sharded-imagenet"
TRAIN, VAL = "imagenet-train-000000.tar", "imagenet-val-00000{}.tar"
VAL_SHARDS = 6
LATER = {"seed": 7, "epoch": 3}
"""Of a second reading of the train shard, whose function is random."""


def find() -> Path | None:
    """The document, if it is on this machine: beside the checkout, or in $SHARDGATE_SEEDS."""
    folders = [os.environ.get("SHARDGATE_SEEDS", ""), str(Path(__file__).parents[3] / "shared" / "seeds")]
    return next((path for folder in folders if folder and (path := Path(folder) / NAME).is_file()), None)


def code_blocks(text: str, endpoint: str) -> list[str]:
    """The document's Python blocks in an order that runs: it shows a call before the function that it takes."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for old, new in {**IMPORTS, ADDRESS: endpoint}.items():
        blocks = [block.replace(old, new) for block in blocks]
    first_call = next(i for i, block in enumerate(blocks) if "train_etl = WDTransform" in block)
    definition = next(i for i, block in enumerate(blocks) if block.startswith("def wd_transform"))
    blocks[first_call], blocks[definition] = blocks[definition], blocks[first_call]
    return blocks


def run(text: str, endpoint: str) -> dict[str, Any]:
    """Run every block in one namespace, and return it.

    Beside what the document defines, `printed` holds what it printed, and `init_seconds` how long each block took that
    initialises a transform.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    seconds = []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, block in enumerate(code_blocks(text, endpoint)):
            cell = f"<cell {number}>"
            linecache.cache[cell] = (len(block), None, block.splitlines(keepends=True), cell)  # as notebooks do
            began = time.monotonic()
            exec(compile(block, cell, "exec"), names)
            if "= WDTransform(" in block:
                seconds.append(time.monotonic() - began)
    return names | {"printed": printed.getvalue(), "init_seconds": seconds}


def report(names: dict[str, Any]) -> dict[str, Any]:
    """What the document's loaders yield, and what its transforms make of whole shards."""
    images, _ = next(iter(names["etl_loader"]))
    ids = [names["train_etl"].uuid, names["val_etl"].uuid]
    return {
        "printed": names["printed"],
        "init_seconds": names["init_seconds"],
        "ids": ids,
        "batch": [*images.shape[1:], str(images.dtype)],
        "samples": {
            loader: sum(len(images) for images, _ in names[loader]) for loader in ("loader", "etl_loader", "val_loader")
        },
        "digests": digests(names["client"], *ids),
    }


def digests(client: Any, train: str, val: str) -> dict[str, str]:
    """SHA-256 of each shard as these transforms make it."""

    def digest(key: str, transform: str, **randomness: int) -> str:
        return hashlib.sha256(client.get(BUCKET, key, transform_id=transform, **randomness)).hexdigest()

    return {
        "train": digest(TRAIN, train),
        "train, later": digest(TRAIN, train, **LATER),
        **{f"val {number}": digest(VAL.format(number), val) for number in range(VAL_SHARDS)},
    }


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
    document, where = sys.argv[1:]
    sys.argv[1:] = []
    print(json.dumps(report(run(Path(document).read_text(), where))))
