"""Fields of samples decoded by webdataset's own decoder, one at a time, when they are read.

A function sees what it would see after `WebDataset(...).decode(spec)`. A picture that a function reads (often only to
look at its size) and hands on as it is would lose quality, bit depth, palette and orientation if it were encoded anew.
So the decoder remembers which object it made of which bytes; at the end the bytes are decoded once more, and if the
picture is still the same, they are written instead. A function that puts something else in the picture's place pays
nothing for that. One that hands it on pays a decoding in place of an encoding: less for PNG, 0.7 ms more for a
photograph of 100 KB, whose JPEG would be a third larger, and worse. To remember the pixels instead would cost all who
read them. Other values are cheap to encode and lose nothing by it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import numpy as np

from shardgate_runtime.clock import clock
from shardgate_runtime.failures import SampleFailed, describe
from shardgate_runtime.formats import PICTURES, format_of
from shardgate_runtime.lazy_sample import Sample, Unread
from shardgate_runtime.webdataset_parts import WebdatasetDecoder, basichandlers, decoders, gzfilter, imagehandler

if TYPE_CHECKING:
    from collections.abc import Mapping

STRIP_BYTES = 1 << 20
"""Of two pictures that are compared at a time: no copies of large ones, and an early end where they differ."""
HINT = (
    'look at the bytes of the member; wd_decoder="" leaves all decoding to the function. '
    "Switches of a library, such as ImageFile.LOAD_TRUNCATED_IMAGES or Image.MAX_IMAGE_PIXELS, have to be set "
    "where the workers run: in setup() of a class, or in the function"
)


class Decoder(Protocol):
    """Makes samples of raw fields.

    Attributes:
        spec: The webdataset spec.
        seconds: Time that decoding took.
    """

    spec: str
    seconds: float

    def __call__(self, fields: Mapping[str, Any], names: Mapping[str, str] = ...) -> dict[str, Any]:
        """The sample. `names` are the extensions that have capitals in the shard, by field."""
        ...

    def original(self, field: str, value: Any) -> tuple[str, bytes] | None:
        """Extension and bytes that such a value of a result came as; None if it has to be encoded."""
        ...


class RawFields:
    """No decoder: fields stay bytes, in a plain dict."""

    spec = ""
    seconds = 0.0

    def __init__(self) -> None:
        self._compressed: dict[int, tuple[str, bytes]] = {}

    def __call__(self, fields: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, Any]:  # noqa: ARG002
        sample = dict(fields)
        self._compressed = {id(data): (field, data) for field, data in sample.items() if field.endswith(".gz")}
        return sample

    def original(self, field: str, value: Any) -> tuple[str, bytes] | None:
        """The bytes of a compressed field are not compressed once more, as new bytes under such a name are."""
        name, data = self._compressed.get(id(value), ("", b""))
        return (field, data) if name and data is value and field.endswith(".gz") else None


class LazyFields:
    """webdataset's decoder for `.decode(spec)`.

    Raises:
        ValueError: webdataset does not know the spec.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.seconds = 0.0
        self._image = imagehandler(spec)
        decoder = WebdatasetDecoder([self._image])
        self._decode1 = decoder.decode1
        self._is_standard = decoder.handlers == [gzfilter, self._image, basichandlers]
        """Nobody has added to webdataset's handlers: the one that takes a field can be called at once."""
        self._pictures: dict[int, tuple[ref[Any], str, str, bytes]] = {}
        """That the running function has read: by id, the object, its field, its name in the shard, its bytes."""

    def __call__(self, fields: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Sample:
        self._pictures = {}
        sample = Sample()
        for field, data in fields.items():
            if field[:2] == "__":
                sample[field] = _metadata(data)
            else:
                sample[field] = Unread(self._read, field, names.get(field, field) if names else field, data)
        return sample

    def _decode(self, field: str, data: bytes) -> Any:
        extension, is_compressed = format_of(field)
        if is_compressed or not self._is_standard:
            return self._decode1(field, data)
        if extension in PICTURES:
            value = self._image(f".{extension}", data)
        else:
            decode = decoders.get(extension)
            value = None if decode is None else decode(data)
        return data if value is None else value

    def _read(self, unread: Unread) -> Any:
        start = clock.perf_counter()
        try:
            value = self._decode(unread.field, unread.data)
        except MemoryError:
            raise
        except Exception as error:
            message = f"field {unread.field!r} can't be decoded as {self.spec!r}: {describe(error)}"
            raise SampleFailed(message, HINT) from error
        finally:
            self.seconds += clock.perf_counter() - start
        if format_of(unread.field)[0] in PICTURES:
            self._pictures[id(value)] = ref(value), unread.field, unread.name, unread.data
        return value

    def original(self, field: str, value: Any) -> tuple[str, bytes] | None:
        """What nobody read or set, and pictures that were only looked at."""
        if type(value) is Unread:
            if value.is_untouched and format_of(field) == format_of(value.field):
                return (value.name if field == value.field else field), value.data
            value = value.read()
        found = self._pictures.get(id(value))
        if found is None:
            return None
        picture, its_field, its_name, data = found
        if picture() is not value or format_of(field) != format_of(its_field):
            return None
        try:
            is_same = is_same_picture(value, self._decode(its_field, data))
        except Exception:  # noqa: BLE001 (changed so that it can't be compared, or the memory does not suffice)
            return None
        return ((its_name if field == its_field else field), data) if is_same else None


def make_decoder(spec: str) -> Decoder:
    """The decoder for `.decode(spec)`; "" leaves bytes as they are.

    Raises:
        ValueError: webdataset does not know the spec.
    """
    return LazyFields(spec) if spec else RawFields()


def _metadata(data: Any) -> Any:
    """As webdataset has it: text where it is text."""
    if not isinstance(data, bytes):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def is_same_picture(one: Any, other: Any) -> bool:
    """Whether two decoded pictures (of Pillow, numpy or torch) are equal in all that an encoder looks at."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and bool(torch.equal(one, other))
    if (one.mode, one.size, one.info) != (other.mode, other.size, other.info):
        return False
    width, height = one.size
    rows = max(1, STRIP_BYTES // (width * len(one.mode)))
    strips = ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))
    return all(one.crop(strip).tobytes() == other.crop(strip).tobytes() for strip in strips)
