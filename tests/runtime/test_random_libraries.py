"""Libraries that draw random numbers in ways of their own: two workers, forked from one, draw what the sample says."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from runtime_process import Runtime, members_of, tar_of

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for its newest version when it is imported

SHARD = tar_of([(f"{i}.txt", b"x") for i in range(4)])
OTHER_SHARD = {"key": "other.tar"}


def picture() -> Any:
    return np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype("uint8")


def by_albumentations() -> Any:
    import albumentations as A  # noqa: N812 - as everyone has it

    pipeline = A.Compose(
        [
            A.RandomCrop(32, 32),
            A.HorizontalFlip(p=0.5),
            A.OneOf([A.GaussNoise(p=1), A.RandomBrightnessContrast(p=1), A.CoarseDropout(p=1)], p=0.9),
            A.Affine(rotate=(-30, 30), p=1),
            A.SomeOf([A.Blur(p=1), A.HueSaturationValue(p=1), A.RandomGamma(p=1)], n=2),
        ]
    )
    return lambda _: pipeline(image=picture())["image"]


class ByImgaug:
    """In `setup()`, for imgaug 0.4 can't be imported with numpy 2 before numpy has what it misses."""

    def setup(self) -> None:
        np.sctypes = {  # noqa: NPY201
            kind: [getattr(np, f"{kind}{bits}") for bits in (16, 32, 64)] for kind in ("float", "int", "uint")
        }
        import imgaug.augmenters as iaa

        self.pipeline = iaa.Sequential(
            [iaa.Fliplr(0.5), iaa.AdditiveGaussianNoise(scale=10), iaa.Affine(rotate=(-30, 30))]
        )
        self.own = iaa.AdditiveGaussianNoise(scale=(0, 20), seed=1)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {"npy": self.own(image=self.pipeline(image=picture()))}


def by_monai() -> Any:
    from monai import transforms

    pipeline = transforms.Compose(
        [
            transforms.RandFlip(prob=0.5, spatial_axis=0),
            transforms.RandRotate(range_x=0.5, prob=0.9),
            transforms.RandGaussianNoise(prob=0.9),
            transforms.OneOf([transforms.RandScaleIntensity(0.5, prob=1), transforms.RandShiftIntensity(9, prob=1)]),
        ]
    )
    return lambda _: pipeline(picture().transpose(2, 0, 1).astype("float32")).numpy()


def by_kornia() -> Any:
    import kornia.augmentation as K  # noqa: N812 - as everyone has it
    import torch

    pipeline = K.AugmentationSequential(
        K.RandomHorizontalFlip(), K.RandomAffine(30), K.ColorJitter(0.2, 0.2, 0.2, 0.2, p=1), K.RandomGaussianNoise(p=1)
    )
    return lambda _: pipeline(torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255)[0].numpy()


def by_torchvision() -> Any:
    import torch
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(32),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.RandAugment(),
            v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(),
            v2.RandomErasing(p=0.9),
        ]
    )
    return lambda _: pipeline(torch.from_numpy(picture()).permute(2, 0, 1)).numpy()


def by_skimage() -> Any:
    from skimage.util import random_noise

    return lambda _: random_noise(picture())


def by_scipy() -> Any:
    from scipy import stats

    return lambda _: np.concatenate([stats.norm.rvs(size=8), stats.qmc.Halton(2).random(4).ravel()])


LIBRARIES = {
    "albumentations": by_albumentations,
    "imgaug": ByImgaug,
    "monai": by_monai,
    "kornia": by_kornia,
    "torchvision": by_torchvision,
    "skimage": by_skimage,
    "scipy": by_scipy,
}


@pytest.fixture(scope="module", params=list(LIBRARIES))
def runtime(request: pytest.FixtureRequest, start_shared: Callable[..., Runtime]) -> Runtime:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    made = LIBRARIES[request.param]
    if isinstance(made, type):
        return start_shared(made, options={"workers": 2, "torch": True})
    augment = made()

    def function(sample: dict[str, Any]) -> dict[str, Any]:
        return {"npy": augment(sample)}

    return start_shared(function, options={"workers": 2, "torch": True})


def drawn(runtime: Runtime, **job: Any) -> list[tuple[str, bytes]]:
    conversation = runtime.run(SHARD, **job)
    assert conversation.failure is None, conversation.failure
    return members_of(bytes(conversation.output))


def test_every_worker_draws_what_the_sample_says(runtime: Runtime) -> None:
    first = drawn(runtime)
    assert len({data for _, data in first}) == len(first) == 4, "every sample draws numbers of its own"
    with runtime.connect():  # keeps one worker from taking jobs
        assert drawn(runtime) == first
        assert drawn(runtime, epoch=1) != first
    drawn(runtime, **OTHER_SHARD)
    assert [drawn(runtime) for _ in range(3)] == [first] * 3


def test_other_epochs_seeds_and_shards_draw_other_numbers(runtime: Runtime) -> None:
    results = [drawn(runtime, **job) for job in ({}, {"epoch": 1}, {"seed": 1}, OTHER_SHARD)]
    pieces = [data for result in results for _, data in result]
    assert len(set(pieces)) == len(pieces)


def test_a_shard_continued_in_the_middle_draws_the_same(runtime: Runtime) -> None:
    whole = runtime.run(SHARD, careful=True)
    total, checkpoint = next(c for c in whole.checkpoints if c[1].whole and c[1].next_sample == 2)
    where = {"sample": checkpoint.next_sample, "input": checkpoint.next_input, "output": total}
    rest = runtime.run(SHARD, **where)
    assert bytes(whole.output[:total]) + bytes(rest.output) == bytes(whole.output)
