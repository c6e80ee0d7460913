"""The functions whose pods are measured. A module of its own, with no more imports than the slim runtime image has."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

NAP_SECONDS = 0.02
MEAN = np.array([0.485, 0.456, 0.406], "float32")
DEVIATION = np.array([0.229, 0.224, 0.225], "float32")
SHORT_SIDE, CROP = 256, 224


def cropped(picture: Any) -> Any:
    """The middle of a PIL picture, as ImageNet's validation transform has it: resized to 256, cropped to 224."""
    scale = SHORT_SIDE / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    left, top = (width - CROP) // 2, (height - CROP) // 2
    bilinear = 2
    return picture.resize((width, height), bilinear).crop((left, top, left + CROP, top + CROP))


def val_float32(sample: dict[str, Any]) -> dict[str, Any]:
    """ImageNet's validation transform by PIL and numpy: 602 KB per sample."""
    pixels = np.asarray(cropped(sample.pop("jpg")), "float32")
    sample["npy"] = (pixels / 255 - MEAN) / DEVIATION
    return sample


def val_uint8(sample: dict[str, Any]) -> dict[str, Any]:
    """The same without normalising: 150 KB per sample."""
    sample["npy"] = np.asarray(cropped(sample.pop("jpg")))
    return sample


def slowly_reversed(sample: dict[str, Any]) -> dict[str, Any]:
    """Waits for 20 ms; over undecoded samples."""
    time.sleep(NAP_SECONDS)
    sample["bin"] = sample["bin"][::-1]
    return sample


def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


class NeedsLicence:
    """Can't be set up."""

    def setup(self) -> None:
        raise RuntimeError("there is no licence")

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample
