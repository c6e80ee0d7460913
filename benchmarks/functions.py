"""The functions that are run bare and through the gateway: the very same objects."""

from __future__ import annotations

import time
from typing import Any

from torchvision import transforms

NAP_SECONDS = 0.005

_crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
_to_tensor = transforms.ToTensor()
_to_bytes = transforms.PILToTensor()
_normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def val_float32(sample: dict[str, Any]) -> dict[str, Any]:
    """ImageNet's validation transform, as a user of torchvision writes it: 602 KB per sample."""
    tensor = _normalize(_to_tensor(_crop(sample.pop("jpg"))))
    sample["npy"] = tensor.permute(1, 2, 0).numpy().astype("float32")
    return sample


def val_uint8(sample: dict[str, Any]) -> dict[str, Any]:
    """The same without Normalize, which then is left to the accelerator: 150 KB per sample."""
    sample["npy"] = _to_bytes(_crop(sample.pop("jpg"))).permute(1, 2, 0).numpy()
    return sample


def next_class(sample: dict[str, Any]) -> dict[str, Any]:
    """Changes the label and leaves the photograph alone."""
    sample["cls"] += 1
    return sample


def nap(sample: dict[str, Any]) -> dict[str, Any]:
    """Waits as for a disk or a service, and computes nothing."""
    time.sleep(NAP_SECONDS)
    return sample
