"""What the demo runs in the gateway: the two transforms of every ImageNet tutorial.

The demo loads this file as a user would load one of their own (`shardgate etl init transforms.py:wd_transform`), so its
code travels by value.
"""

from __future__ import annotations

from typing import Any

from torchvision import transforms

normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])

train_transform = transforms.Compose(
    [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        normalize,
    ]
)

val_transform = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        normalize,
    ]
)


def wd_transform(sample: dict[str, Any]) -> dict[str, Any]:
    sample["npy"] = train_transform(sample.pop("jpg")).permute(1, 2, 0).numpy().astype("float32")
    return sample


def wd_val_transform(sample: dict[str, Any]) -> dict[str, Any]:
    sample["npy"] = val_transform(sample.pop("jpg")).permute(1, 2, 0).numpy().astype("float32")
    return sample
