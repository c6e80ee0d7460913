"""Images are drawn with their classes, whatever form they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shards import picture_shard

from shardgate import Client, display_loader_images, display_shard_images, viz

if TYPE_CHECKING:
    from pathlib import Path

    from fake_gateway import FakeGateway

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:webdataset")


def titles(figure: Any) -> list[str]:
    return [axis.get_title() for band in figure.subfigs for axis in band.axes if axis.images]


def test_the_first_images_of_a_shard_are_drawn_with_their_classes(
    client: Client, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.objects["gcp://b/train.tar"] = picture_shard(6)
    figure = display_shard_images(client, "gcp://b", "train.tar", objects=4, save=tmp_path / "row.png")
    assert titles(figure) == ["class 0", "class 1", "class 2", "class 3"]
    assert (tmp_path / "row.png").read_bytes().startswith(b"\x89PNG")


def test_fewer_images_than_asked_for_are_no_error(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/two.tar"] = picture_shard(2, "png")
    assert titles(display_shard_images(client, "gcp://b", "two.tar")) == ["class 0", "class 1"]


def test_a_shard_without_images_says_what_it_holds(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/odd.tar"] = picture_shard(1, "bin")
    with pytest.raises(ValueError, match=r"holds no image, only .*bin"):
        display_shard_images(client, "gcp://b", "odd.tar")


def test_batches_of_normalised_tensors_are_stretched_to_visible_pixels() -> None:
    import torch

    loader = [(torch.linspace(-2, 3, 2 * 3 * 8 * 9).reshape(2, 3, 8, 9), torch.tensor([7, 8]))]
    (first, label), (_, last) = viz.loader_images(loader, 4)
    assert first.shape == (8, 9, 3)
    assert (first.min(), first.max()) == (0.0, 1.0)
    assert (label, last) == ("7", "8")
    assert titles(display_loader_images(loader, objects=1)) == ["class 7"]


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (np.zeros((8, 9, 3), "uint8"), (8, 9, 3)),
        (np.zeros((3, 8, 9), "float32"), (8, 9, 3)),
        (np.zeros((8, 9, 3), "float64"), (8, 9, 3)),
        (np.zeros((1, 8, 9), "float32"), (8, 9)),
        (np.zeros((8, 9), "uint8"), (8, 9)),
    ],
)
def test_single_images_of_any_layout_are_drawn(image: Any, shape: tuple[int, ...]) -> None:
    ((drawn, label),) = viz.loader_images([(image, "cat")], 4)
    assert drawn.shape == shape
    assert label == "cat"
    assert titles(display_loader_images([(image, "cat")])) == ["class cat"]


def test_an_empty_loader_gives_an_empty_figure() -> None:
    assert titles(display_loader_images([])) == []
