"""Photographs that come with installable packages, and endless variations of them.

ImageNet itself may not be shipped. A dozen real photographs, cropped, scaled, flipped and lit at random, decode and
transform at ImageNet's cost: about 500x375 pixels and 100 KB each. The same number always gives the same picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import resources
from random import Random
from typing import TYPE_CHECKING

from PIL import Image, ImageEnhance, ImageOps

from shardgate.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

PHOTOGRAPHS = {
    "skimage.data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "motorcycle_left.png",
        "rocket.jpg",
        "hubble_deep_field.jpg",
        "retina.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
"""Package to the files in it; each is a class of its own."""
FEWEST = 4
SIZES = ((500, 375), (500, 375), (500, 333), (375, 500), (480, 360), (512, 384))
QUALITIES = (93, 98)
"""JPEG quality between these gives about 100 KB a picture."""


@dataclass(frozen=True)
class Photo:
    label: int
    image: Image.Image


def photographs() -> list[Photo]:
    """All photographs that are installed; some version of a package may lack one.

    Raises:
        MissingExtra: Too few of them are.
    """
    found = []
    names = [(package, name) for package, files in PHOTOGRAPHS.items() for name in files]
    for label, (package, name) in enumerate(names):
        try:
            data = resources.files(package).joinpath(name).read_bytes()
        except (FileNotFoundError, ModuleNotFoundError):
            continue
        found.append(Photo(label, Image.open(io.BytesIO(data)).convert("RGB")))
    if len(found) < FEWEST:
        raise MissingExtra("scikit-image's and scikit-learn's sample photographs", "demo")
    return found


def variation(photos: Sequence[Photo], number: int) -> tuple[bytes, int]:
    """Picture `number`: its JPEG and its class."""
    random = Random(number)  # noqa: S311 - pictures, not secrets
    photo = photos[random.randrange(len(photos))]
    width, height = random.choice(SIZES)
    image = photo.image.resize(
        (width, height), Image.Resampling.BICUBIC, _crop(random, photo.image.size, width / height)
    )
    if random.random() < 0.5:  # noqa: PLR2004 - half of them
        image = ImageOps.mirror(image)
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.25))
    image = ImageEnhance.Contrast(image).enhance(random.uniform(0.85, 1.2))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=random.randint(*QUALITIES), subsampling=0)
    return jpeg.getvalue(), photo.label


def _crop(random: Random, size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """A box of this aspect ratio somewhere in the picture, at least six tenths of what fits."""
    width, height = size
    scale = random.uniform(0.6, 1.0) * min(width / aspect, height)
    left, top = random.uniform(0, width - scale * aspect), random.uniform(0, height - scale)
    return left, top, left + scale * aspect, top + scale
