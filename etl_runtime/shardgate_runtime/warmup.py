"""What the first sample would otherwise have to wait for, done before a worker says that it is ready.

Lazy imports of image plugins, the first call into torch's kernels, memory pages that a fork shares until they are
written: together up to 50 ms. The parent warms up for what workers can share, and each worker for what they can't.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from packaging.requirements import Requirement
from PIL import Image

from shardgate_runtime.decoding import make_decoder
from shardgate_runtime.output import copy_array
from shardgate_runtime.seeds import seeded_by
from shardgate_runtime.tar_writer import Piece, encode_sample

if TYPE_CHECKING:
    from collections.abc import Iterable

PICTURE = (512, 384)


def load_torch(requirements: Iterable[str]) -> None:
    """Import torch where the function names it, before the workers are forked: at its first sample it may be too late.

    Functions that do not name it do not wait for it.
    """
    if any(Requirement(text).name == "torch" for text in requirements):
        with suppress(ImportError):  # the function will say what it misses
            import_module("torch")


def warm_up(decoder: str) -> None:
    """Take a picture through decoder, encoder and, where it is loaded, torch.

    Raises:
        ValueError: webdataset does not know the decoder.
    """
    decode = make_decoder(decoder)
    with seeded_by(""):
        pass
    picture = BytesIO()
    Image.new("RGB", PICTURE).save(picture, "JPEG")
    dict(decode({"__key__": "warm-up", "jpg": picture.getvalue(), "cls": b"0"}))
    array = np.zeros((3, *PICTURE), "float32")
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        tensor = torch.from_numpy(array).div(255).sub(0.5).contiguous()
        array = tensor.permute(1, 2, 0).numpy()
    pieces: list[Piece] = []
    encode_sample({"__key__": "warm-up", "npy": array, "cls": 0}, pieces)
    copy_array(np.empty(array.shape, array.dtype), array)
