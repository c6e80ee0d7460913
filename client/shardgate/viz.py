"""Looking at samples: originals in a shard, and what a loader makes of them.

Both functions draw one row of images titled with their classes, and return matplotlib's Figure. A notebook shows it
once, as the result of its cell; in the middle of a cell, `display(figure)` shows it. In a script, `save=` writes it
to a file.
"""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

from shardgate.errors import MissingExtra
from shardgate.wds_opener import open_url

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from shardgate.client import Client
    from shardgate.urls import Bucket

IMAGES = "jpg;jpeg;png;webp"
CLASSES = "cls;json;txt"
INCHES = 2.6
PIXELS_PER_INCH = 120


def display_shard_images(
    client: Client,
    bucket: str | Bucket,
    object_name: str,
    objects: int = 4,
    *,
    save: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Figure:
    """Draw the first images of a shard, as they are stored.

    Args:
        client: The gateway.
        bucket: As in `Client.object_url`.
        object_name: A tar of images, with a `.cls` beside each for the title.
        objects: How many.
        save: File to write the figure to.
        options: More of `Client.object_url`.

    Raises:
        MissingExtra: matplotlib or webdataset is not installed.
    """
    url = client.object_url(bucket, object_name, **options)
    return _row(shard_images(url, objects, token=client.token), save)


def display_loader_images(
    loader: Iterable[Any], objects: int = 4, *, save: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw the first images that a loader yields, in batches or one by one.

    Args:
        loader: Yields (images, classes): float tensors in any range or uint8, channels first or last.
        objects: How many.
        save: File to write the figure to.
    """
    return _row(loader_images(loader, objects), save)


def shard_images(url: str, count: int, *, token: str | None = None) -> list[tuple[Any, str]]:
    """The first images of the tar at `url`, as arrays, each with its class."""
    try:
        from webdataset import autodecode, tariterators  # noqa: PLC0415 - see MissingExtra
    except ImportError as error:
        raise MissingExtra("webdataset", "viz") from error
    decode = autodecode.Decoder([autodecode.imagehandler("rgb8")])
    with closing(open_url(url, token=token)) as stream:
        files = tariterators.tar_file_expander([{"url": url, "stream": stream}])
        samples = (decode(sample) for sample in tariterators.group_by_keys(files))
        return [(_first(sample, IMAGES), str(_first(sample, CLASSES))) for sample in islice(samples, count)]


def loader_images(loader: Iterable[Any], count: int) -> list[tuple[Any, str]]:
    """The first images that a loader yields, as arrays, each with its class."""
    return [(_picture(image), str(_scalar(label))) for image, label in islice(_singles(loader), count)]


def draw(rows: Sequence[tuple[str, Sequence[tuple[Any, str]]]]) -> Figure:
    """A sheet of images: a heading and (image, class) pairs for each row.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from shardgate.picture import Picture  # noqa: PLC0415 - see MissingExtra
    except ImportError as error:
        raise MissingExtra("matplotlib", "viz") from error
    columns = max((len(images) for _, images in rows), default=1) or 1
    height = INCHES + 0.3
    size = (INCHES * columns, height * len(rows))
    figure = Picture(figsize=size, dpi=PIXELS_PER_INCH, layout="constrained")
    for band, (heading, images) in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        if heading:
            band.suptitle(heading, fontsize=11, fontweight="bold", x=0.01, ha="left")
        axes = band.subplots(1, columns, squeeze=False)[0]
        for axis in axes:
            axis.set_axis_off()
        for axis, (image, title) in zip(axes, images, strict=False):
            _show(axis, image, title)
    return figure


def _row(images: list[tuple[Any, str]], save: str | os.PathLike[str] | None) -> Figure:
    figure = draw([("", images)])
    if save is not None:
        figure.savefig(save)
    return figure


def _show(axis: Axes, image: Any, title: str) -> None:
    axis.imshow(image, cmap="gray" if image.ndim == 2 else None)  # noqa: PLR2004 - height and width
    axis.set_title(f"class {title}", fontsize=9)
    axis.set_anchor("N")  # titles stay in line above images of different heights


def _first(sample: dict[str, Any], extensions: str) -> Any:
    """The field under the first of these extensions; a class that is not there reads as "?"."""
    for extension in extensions.split(";"):
        if extension in sample:
            return sample[extension]
    if extensions == CLASSES:
        return "?"
    raise ValueError(f"sample {sample['__key__']} holds no image, only {', '.join(sorted(sample))}")


def _singles(loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for images, labels in loader:
        if images.ndim == 4:  # noqa: PLR2004 - a batch of height, width, channels
            yield from zip(images, labels, strict=True)
        else:
            yield images, labels


def _picture(image: Any) -> Any:
    """An array to look at: channels last; floats stretched from their own least and greatest value to 0…1."""
    import numpy as np  # noqa: PLC0415 - importing shardgate must not import numpy

    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):  # noqa: PLR2004
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:  # noqa: PLR2004
        array = array[:, :, 0]
    if array.dtype == np.uint8:
        return array
    array = array.astype("float32")
    low, high = float(array.min()), float(array.max())
    return (array - low) / ((high - low) or 1.0)


def _scalar(label: Any) -> Any:
    return label.item() if hasattr(label, "item") else label
