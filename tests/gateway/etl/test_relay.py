"""The relay with real runtimes: what a reader gets, whatever happens to the workers."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

from shards import shard

if TYPE_CHECKING:
    from etl import Etl


def noisy(sample: dict[str, Any]) -> dict[str, Any]:
    """Depends on every seed there is, so that a sample which is run again shows whether it was seeded the same."""
    import random

    import numpy as np

    noise = bytes(np.random.randint(0, 256, 5000, dtype=np.uint8))
    return {"__key__": sample["__key__"], "bin": sample["bin"] + noise, "txt": str(random.random())}


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


async def test_a_shard_comes_back_transformed_sample_by_sample(etl: Etl) -> None:
    etl.put("a.tar", shard(20))
    record = await etl.register(noisy, name="noisy")
    result = members(await etl.read(record, "a.tar"))
    assert len(result) == 40
    raw = members(shard(20))
    assert result["000007.bin"][:20_000] == raw["000007.bin"]
