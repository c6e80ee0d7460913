"""What a function did not touch is written with the bytes that came; what it read or set is encoded."""

from __future__ import annotations

import copy
import gzip
import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from runtime_process import members_of

from shardgate_runtime.decoding import is_same_picture, make_decoder
from shardgate_runtime.encoding import Encoder
from shardgate_runtime.formats import PICTURES as DECODED
from shardgate_runtime.formats import format_of
from shardgate_runtime.lazy_sample import stored
from shardgate_runtime.samples import normalise
from shardgate_runtime.tar_writer import encode_sample

if TYPE_CHECKING:
    from collections.abc import Callable


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), "uint8"))
PHOTO.getexif()[0x0112] = 6
DEPTH = Image.fromarray((np.arange(64, dtype="uint16") * 1000).reshape(8, 8))
MASK = Image.new("P", (8, 8))
MASK.putpalette([value % 256 for value in range(768)])
MASK.putdata(list(range(64)))

FIELDS = {
    "jpg": file_of(PHOTO, "JPEG", quality=60, exif=PHOTO.getexif()),
    "depth.png": file_of(DEPTH, "PNG"),
    "seg.png": file_of(MASK, "PNG"),
    "webp": file_of(PHOTO, "WEBP"),
    "gif": file_of(PHOTO, "GIF"),
    "jp2": file_of(PHOTO, "JPEG2000"),
    "tif": file_of(PHOTO, "TIFF"),
    "bmp": file_of(PHOTO, "BMP"),
    "ico": file_of(PHOTO, "ICO"),
    "json": b'{ "a" : 1.10 }',
    "cls": b"007",
    "json.gz": gzip.compress(b"{}", mtime=99),
    "pkl": pickle.dumps({"a": 1}, protocol=2),
    "wav": b"RIFF",
    "mp4": b"\0\0\0\x18ftyp",
    "npy.broken": b"x",
    "png.broken.png": b"no picture",
}
NAMES = {"jpg": "JPG", "depth.png": "Depth.PNG"}


def after(function: Callable[[Any], Any], fields: Any = FIELDS, spec: str = "pil") -> dict[str, bytes]:
    """The members of the function's result, by extension."""
    decoder = make_decoder(spec)
    names = {field: name for field, name in NAMES.items() if field in fields}
    (result,) = normalise(function(decoder({"__key__": "k", **fields}, names)), "k")
    pieces: list[Any] = []
    encode_sample(result, pieces, Encoder(spec), decoder)
    data = b"".join(piece.tobytes() if isinstance(piece, np.ndarray) else bytes(piece) for piece in pieces)
    return {name.partition(".")[2]: data for name, data in members_of(data + bytes(1024))}


UNTOUCHED = {NAMES.get(field, field): data for field, data in FIELDS.items()}


def next_class(sample: Any) -> Any:
    sample["cls"] += 1
    return sample


def through_copy(sample: Any) -> Any:
    twin = sample.copy()
    twin["cls"] = sample["cls"] + 1
    return twin


@pytest.mark.parametrize(
    "function",
    [
        next_class,
        through_copy,
        lambda sample: copy.deepcopy(sample) | {"cls": 8},
        lambda sample: [sample | {"cls": 8}],
        lambda sample: {**dict(dict.items(sample)), "cls": 8},
    ],
)
def test_fields_that_were_not_touched_keep_their_bytes_and_names(function: Callable[[Any], Any]) -> None:
    assert after(function) == UNTOUCHED | {"cls": b"8"}


PICTURES = {name: data for name, data in FIELDS.items() if format_of(name)[0] in DECODED and data != b"no picture"}
PICTURES["wav"] = FIELDS["wav"]


@pytest.mark.parametrize("spec", ["pil", "pill", "pilrgba", "rgb", "rgb8", "l8", "rgba", "torchrgb", "torchl8"])
@pytest.mark.parametrize(
    "function",
    [
        lambda sample: {**sample},
        lambda sample: sample if sample.items() and list(sample.values()) else None,
        lambda sample: {name: sample[name] for name in sample},
    ],
)
def test_pictures_that_were_only_looked_at_keep_their_bytes(function: Callable[[Any], Any], spec: str) -> None:
    pytest.importorskip("torch")
    assert after(function, PICTURES, spec) == {name: UNTOUCHED[name] for name in map(_named, PICTURES)}


def _named(field: str) -> str:
    return NAMES.get(field, field)


def test_a_picture_under_another_name_keeps_its_bytes_and_another_format_is_encoded() -> None:
    def rename(sample: Any) -> Any:
        return {"left.jpg": sample["jpg"], "right.png": sample["jpg"]}

    members = after(rename)
    assert members["left.jpg"] == FIELDS["jpg"]
    assert Image.open(io.BytesIO(members["right.png"])).format == "PNG"


@pytest.mark.parametrize("spec", ["pil", "rgb8", "torchrgb8"])
@pytest.mark.parametrize("field", ["webp", "bmp", "tif", "jp2", "depth.png", "gif"])
def test_a_picture_that_was_changed_in_place_is_encoded(field: str, spec: str) -> None:
    pytest.importorskip("torch")

    def paint(sample: Any) -> Any:
        picture = sample[field]
        if spec == "pil":
            picture.putpixel((3, 3), (1, 2, 3))
        elif spec == "rgb8":
            sample[field] = picture = picture.copy()
            picture[3, 3] = (1, 2, 3)
        else:
            picture[0, 3, 3] = 1
            picture[1, 3, 3] = 2
            picture[2, 3, 3] = 3
        return sample

    data = after(paint, {field: FIELDS[field]}, spec)[field]
    painted = Image.open(io.BytesIO(data)).convert("RGB")
    assert painted.getpixel((3, 3)) == (1, 2, 3)
    before = Image.open(io.BytesIO(FIELDS[field])).convert("RGB")
    if field == "gif":  # 256 colours
        return
    before.putpixel((3, 3), (1, 2, 3))
    assert painted.tobytes() == before.tobytes()


def test_a_picture_changed_through_a_copy_of_the_sample_is_encoded() -> None:
    def paint(sample: Any) -> Any:
        twin = sample.copy()
        sample["bmp"].putpixel((0, 0), (1, 2, 3))
        return twin

    assert Image.open(io.BytesIO(after(paint)["bmp"])).getpixel((0, 0)) == (1, 2, 3)


def test_values_that_were_read_and_changed_in_place_are_encoded() -> None:
    def change(sample: Any) -> Any:
        sample["json"]["b"] = 2
        sample["pkl"]["b"] = 2
        return sample

    members = after(change)
    assert members["json"] == b'{"a": 1.1, "b": 2}'
    assert pickle.loads(members["pkl"]) == {"a": 1, "b": 2}
    assert members["json.gz"] == FIELDS["json.gz"]


def test_a_picture_that_was_put_in_the_place_of_another_is_encoded() -> None:
    def swap(sample: Any) -> Any:
        sample["webp"] = sample["bmp"].rotate(90)
        return sample

    decoded = Image.open(io.BytesIO(after(swap)["webp"]))
    assert decoded.tobytes() == Image.open(io.BytesIO(FIELDS["bmp"])).rotate(90).tobytes()


def test_without_a_decoder_compressed_fields_are_not_compressed_once_more() -> None:
    fields = {"json.gz": FIELDS["json.gz"], "jpg": b"x"}
    assert after(lambda sample: sample, fields, "") == fields
    new = after(lambda sample: {**sample, "json.gz": b"[]"}, fields, "")
    assert gzip.decompress(new["json.gz"]) == b"[]"


def test_a_decoder_keeps_nothing_of_a_picture_that_the_function_gave_up() -> None:
    import weakref

    sample = make_decoder("pil")({"__key__": "k", "jpg": FIELDS["jpg"]})
    gone = weakref.ref(sample.pop("jpg"))
    assert gone() is None
    assert "jpg" not in stored(sample)


@pytest.mark.parametrize("change", [lambda i: i.resize((8, 8)), lambda i: i.convert("L"), lambda i: i.rotate(180)])
def test_pictures_that_differ_are_told_apart(change: Callable[[Image.Image], Image.Image]) -> None:
    assert is_same_picture(PHOTO, PHOTO.copy())
    assert not is_same_picture(PHOTO, change(PHOTO))
    large = Image.new("RGB", (1000, 2000))
    other = large.copy()
    assert is_same_picture(large, other)
    other.putpixel((999, 1999), (0, 0, 1))
    assert not is_same_picture(large, other)


def test_handlers_that_setup_adds_to_webdatasets_decoder_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from webdataset import autodecode

    assert make_decoder("pil")({"json": b"null"})["json"] == b"null", "as webdataset has it"
    handlers = [lambda key, data: len(data) if key.endswith(".wav") else None, *autodecode.default_post_handlers]
    monkeypatch.setattr(autodecode, "default_post_handlers", handlers)
    assert make_decoder("pil")({"wav": b"RIFF", "cls": b"7"}) == {"wav": 4, "cls": 7}
    monkeypatch.setitem(autodecode.decoders, "mp4", lambda data: data[::-1])
    assert make_decoder("pil")({"mp4": b"ab"}) == {"mp4": b"ba"}
