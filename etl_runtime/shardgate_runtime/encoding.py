"""Values of fields as bytes, by the field's extension: webdataset's encoders, and what they lack.

webdataset's table decides wherever it has an encoder. Added are encoders for all else that its decoder reads and
Pillow can write (without loss where the format allows it) and for `pkl`; the forms in which the transform's decoder
gives pictures, where these are not what webdataset encodes (four channels, tensors); gzip without the time in it; and
reasons for what can't be encoded.
"""

from __future__ import annotations

import gzip
import io
import pickle
import sys
from typing import Any

import numpy as np
from PIL import Image

from shardgate.text import safe_text
from shardgate_runtime.failures import describe, type_name
from shardgate_runtime.formats import PICTURES, format_of
from shardgate_runtime.webdataset_parts import default_handlers

WRITTEN_PICTURES = PICTURES | {"img", "image"}
LOSSLESS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 100}}
"""Options of Pillow by format; as webdataset has it for JPEG, which has no lossless form."""
CODESTREAMS = frozenset(("j2k", "jpc", "j2c"))
"""Extensions of JPEG 2000 without its box around it."""
FLOATS = (-0.001, 1.001)
"""Between these are the floats that webdataset takes for those of a picture."""
WEBDATASETS_PICTURES = frozenset(("jpg", "jpeg", "img", "image", "png", "ppm"))
"""webdataset encodes these; for pbm and pgm it asks Pillow for a format that there is not."""


class Encoder:
    """Encodes the values of one transform's samples.

    Args:
        spec: The transform's decoder: pictures may come back in the form that it gives them.
    """

    def __init__(self, spec: str = "") -> None:
        self._channels = (1, 3, 4) if "rgba" in spec else (1, 3)
        self._takes_tensors = spec.startswith("torch")

    def __call__(self, value: Any, field: str) -> bytes | memoryview:
        """The bytes of a value.

        Raises:
            ValueError: It can't be encoded under that name; the text names both, and the reason.
        """
        try:
            data = self._encode(value, field)
        except MemoryError:
            raise
        except _Refused as refused:
            raise ValueError(
                f"the value of {_shown(field)} ({describe_value(value)}) can't be encoded: {refused}"
            ) from None
        except Exception as error:
            raise ValueError(
                f"the value of {_shown(field)} ({describe_value(value)}) can't be encoded: {describe(error)}"
            ) from error
        if isinstance(data, (bytes, bytearray, memoryview)):
            return plain(data)
        raise ValueError(
            f"the value of {_shown(field)} ({describe_value(value)}) was encoded to {type_name(data)}, not bytes"
        )

    def _encode(self, value: Any, field: str) -> Any:
        extension, is_compressed = format_of(field)
        if isinstance(value, bytes):
            data = plain(value)
        elif isinstance(value, str):
            data = str.encode(value)
        elif (handler := default_handlers.get(extension)) is not None and extension not in WRITTEN_PICTURES:
            data = handler(value)
        else:
            data = self._encode_other(value, extension)
        # The time in a header of gzip would make other bytes of the same value.
        return gzip.compress(data, mtime=0) if is_compressed else data

    def _encode_other(self, value: Any, extension: str) -> Any:
        if extension in WRITTEN_PICTURES:
            return encode_picture(self._picture_of(value), extension)
        if extension == "pkl":
            return pickle.dumps(value)
        raise _Refused(f"there is no encoder for {_shown(extension)}, so it has to be bytes or str")

    def _picture_of(self, value: Any) -> Any:
        """A Pillow picture, or an array that webdataset makes one of."""
        torch: Any = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            value = self._array_of(value)
        if not isinstance(value, np.ndarray):
            if isinstance(value, Image.Image):
                return value
            raise _Refused(
                "a picture is a PIL image or an array (height, width, channels), or bytes that are encoded already"
            )
        channels = _channels_of(value)
        if channels not in self._channels:
            raise _Refused(self._expected(value))
        if channels == 1:
            value = value.reshape(value.shape[:2])
        return picture_from(value)

    def _array_of(self, tensor: Any) -> Any:
        if not self._takes_tensors:
            raise _Refused("a picture is a PIL image or an array: turn the tensor with .permute(1, 2, 0).numpy()")
        array = tensor.detach().cpu().numpy()
        return np.moveaxis(array, 0, -1) if array.shape[2:] else array

    def _expected(self, array: np.ndarray[Any, Any]) -> str:
        wanted = " or ".join(f"(height, width, {count})" for count in self._channels)
        text = f"the shape of a picture is (height, width), {wanted}"
        if _channels_of(array) and array.shape[0] in (1, 3, 4):
            return f"{text}; move the channels to the end, as .transpose(1, 2, 0) does"
        return text


def plain(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """The same bytes, one behind the other, and of no class of the user's: its `__len__` may say something else.

    Raises:
        ValueError: It is a memoryview that was released.
    """
    if type(data) is bytes:
        return data
    view = memoryview(data)
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # it has gaps, or elements of a kind that memoryview does not know
        return view.tobytes()


def _channels_of(array: np.ndarray[Any, Any]) -> int:
    """Of an array (height, width[, channels]); 0 for an array of another shape."""
    return {2: 1, 3: array.shape[-1]}.get(array.ndim, 0) if array.ndim else 0


class _Refused(Exception):
    """A reason that needs no name of an exception before it."""


def picture_from(array: np.ndarray[Any, Any]) -> Any:
    """A Pillow picture of an array (height, width[, channels]); floats are from 0 to 1, as webdataset has it."""
    if array.dtype in (np.dtype("f"), np.dtype("d")):
        low, high = np.amin(array, initial=0), np.amax(array, initial=0)
        if not (low > FLOATS[0] and high < FLOATS[1]):
            raise _Refused(f"floats of a picture are between 0 and 1, but these are between {low} and {high}")
        array = np.array(np.clip(array, 0.0, 1.0) * 255.0, "uint8")
    return Image.fromarray(np.ascontiguousarray(array))


def encode_picture(picture: Any, extension: str) -> bytes:
    """A Pillow picture in the format of an extension, without loss where the format allows it."""
    if extension in WEBDATASETS_PICTURES:
        return bytes(default_handlers[extension](picture))
    kind = Image.registered_extensions().get(f".{extension}", "")
    if kind not in Image.SAVE:
        raise _Refused(f"Pillow can't write {_shown(extension)}, so it has to be bytes")
    options = LOSSLESS.get(kind, {})
    if extension in CODESTREAMS:
        options = {"no_jp2": True}
    with io.BytesIO() as stream:
        picture.save(stream, kind, **options)
        return stream.getvalue()


def describe_value(value: Any) -> str:
    """A value's type, and the shape and type of an array."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return type_name(value)
    return f"{type_name(value)} of shape {safe_text(tuple(shape), 100)} and type {safe_text(dtype, 100)}"


def _shown(name: str) -> str:
    return safe_text(repr(name), 200)
