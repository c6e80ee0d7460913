"""Bytes and tars to move around: any two blocks differ, so that bytes in the wrong place are seen."""

from __future__ import annotations

import io
import random
import tarfile


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def shard(samples: int, size: int = 20_000, seed: int = 0) -> bytes:
    """A shard of samples `000000.bin` and `000000.cls` and so on."""
    members: dict[str, bytes] = {}
    for index in range(samples):
        members[f"{index:06d}.bin"] = random_bytes(size, seed * 1_000_003 + index)
        members[f"{index:06d}.cls"] = b"%d" % index
    return tar_of(members)


def picture_shard(count: int, extension: str = "jpg") -> bytes:
    """A shard of pictures, each with its number as its class."""
    from PIL import Image

    members: dict[str, bytes] = {}
    for index in range(count):
        picture = io.BytesIO()
        Image.new("RGB", (40, 30), (10 * index, 20, 30)).save(picture, "JPEG" if extension == "jpg" else "PNG")
        members[f"{index:03d}.cls"] = str(index).encode()
        members[f"{index:03d}.{extension}"] = picture.getvalue()
    return tar_of(members)
