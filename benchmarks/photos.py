"""Shards of real photographs, in ImageNet's layout: per sample a `.jpg` of about 100 KB and its `.cls`.

The photographs are the colour pictures that come with scikit-image and scikit-learn, cropped, mirrored and re-encoded
at 500 x 375 so that no two samples are the same and the sizes are those of ImageNet's validation set. Making a thousand
takes seconds, so a shard is kept in the temporary folder under a name that says how it was made.
"""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = (500, 375)
TARGET_BYTES = 112_000
QUALITIES = (98, 96, 94, 92, 90, 87, 84, 80, 75, 70)
RECIPE = 1
"""Counts changes of the recipe, so that no shard of an older one is taken for a new one."""


@cache
def sources() -> list[Image]:
    """The colour photographs that are installed."""
    from PIL import Image  # noqa: PLC0415  heavy, and only wanted when a shard is made
    from skimage import data as untyped  # noqa: PLC0415
    from sklearn.datasets import load_sample_images  # noqa: PLC0415

    data: Any = untyped
    arrays = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]
    return [Image.fromarray(array).convert("RGB") for array in arrays]


def photograph(number: int) -> bytes:
    """The JPEG of sample `number`, always the same."""
    from PIL import Image  # noqa: PLC0415

    dice = random.Random(number)
    source = sources()[number % len(sources())]
    share = dice.uniform(0.6, 1.0)
    width, height = source.width * share, source.height * share
    left, top = dice.uniform(0, source.width - width), dice.uniform(0, source.height - height)
    picture = source.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if dice.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return min((_encode(picture, quality) for quality in QUALITIES), key=lambda jpeg: abs(len(jpeg) - TARGET_BYTES))


def _encode(picture: Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def shard(samples: int) -> Path:
    """A tar of `samples` photographs; made once per machine."""
    path = Path(tempfile.gettempdir()) / f"shardgate-photos-{os.getuid()}-{RECIPE}" / f"{samples}.tar"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        _write(unfinished, samples)
        unfinished.rename(path)
    return path


def _write(path: Path, samples: int) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(samples):
            _add(tar, f"{number:06d}.cls", str(number % 1000).encode())
            _add(tar, f"{number:06d}.jpg", photograph(number))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
