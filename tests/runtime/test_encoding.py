"""What the decoder reads can be written again, the same bytes at any time; what can't be is refused with a reason."""

from __future__ import annotations

import gzip
import io
import pickle
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset.autodecode import decoders

from shardgate_runtime.decoding import make_decoder
from shardgate_runtime.encoding import Encoder
from shardgate_runtime.webdataset_parts import IMAGE_EXTENSIONS

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), "uint8"))
LOSSY = {"jpg", "jpeg", "jpe", "jfif", "icns", "ico", "gif"}
UNWRITABLE = {"blp", "bufr", "cur", "dcx", "eps", "ps", "fit", "fits", "fli", "flc", "ftc", "ftu", "gbr", "grib", "h5"}
UNWRITABLE |= {"hdf", "iim", "mpg", "mpeg", "msp", "pcd", "psd", "pxr", "wmf", "emf", "xbm", "xpm", "ras"}
VALUES: dict[str, Any] = {
    "txt": "grüß",
    "cls": 7,
    "json": {"a": [1.5, None]},
    "pkl": {"a": (1, b"x")},
    "npz": {"a": np.arange(5)},
    "npy": np.arange(5),
    "ten": [np.arange(5, dtype="float32")],
    "mp": [1, b"x", {"a": None}],
}


@pytest.mark.parametrize("extension", sorted(set(IMAGE_EXTENSIONS) - UNWRITABLE - {"im"}))  # Pillow warns of im
def test_every_picture_that_is_read_and_can_be_written_is_written(extension: str) -> None:
    data = Encoder()(PHOTO, f"left.{extension}")
    again = make_decoder("pil")({"__key__": "k", extension: data})[extension]
    if extension not in LOSSY:
        assert again.tobytes() == PHOTO.tobytes()


@pytest.mark.parametrize("extension", sorted(UNWRITABLE))
def test_a_picture_that_cannot_be_written_is_refused_with_a_reason(extension: str) -> None:
    reason = ""
    try:
        Encoder()(PHOTO, extension)
    except ValueError as error:
        reason = str(error).partition("can't be encoded: ")[2]
    if extension not in ("eps", "ps"):  # depends on the machine's programs
        assert len(reason) > 10


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("extension", sorted(set(decoders) - {"cbor"}))  # needs a package that hardly anybody has
def test_every_other_value_that_is_read_can_be_written_and_read_again(extension: str, compressed: bool) -> None:
    kinds = {"text": "txt", "transcript": "txt", "jsn": "json", "pickle": "pkl", "pyd": "pkl", "tb": "ten", "msg": "mp"}
    kinds |= {"cls2": "cls", "index": "cls", "inx": "cls", "id": "cls", "pth": "json"}
    value = VALUES[kinds.get(extension, extension)]
    if extension == "pth":
        pytest.importorskip("torch")
    field = f"{extension}.gz" if compressed else extension
    data = bytes(Encoder()(value, field))
    again = make_decoder("pil")({"__key__": "k", field: data})[field]
    assert pickle.dumps(again) == pickle.dumps(value)


def test_the_time_is_not_in_what_is_encoded() -> None:
    values = {f"{name}{suffix}": value for name, value in VALUES.items() for suffix in ("", ".gz")}
    values |= dict.fromkeys(("png", "tif", "webp", "gif", "jp2", "jpg", "png.gz", "ico", "tga"), PHOTO)
    encode = Encoder()
    before = {field: bytes(encode(value, field)) for field, value in values.items()}
    start = int(time.time())
    while int(time.time()) < start + 3:  # zip stores even seconds
        time.sleep(0.1)
    assert {field: bytes(encode(value, field)) for field, value in values.items()} == before


def test_bytes_under_a_compressed_name_are_compressed() -> None:
    assert gzip.decompress(bytes(Encoder()(b"raw", "bin.gz"))) == b"raw"
    assert gzip.decompress(bytes(Encoder()("raw", "txt.gz"))) == b"raw"


@pytest.mark.parametrize("spec", ["rgba8", "rgba", "pilrgba", "l8", "rgb", "torchrgb", "torchrgba8", "torchl", "torch"])
@pytest.mark.parametrize("extension", ["png", "webp", "tif"])
def test_pictures_come_back_in_the_form_that_the_decoder_gives(spec: str, extension: str) -> None:
    pytest.importorskip("torch")
    stream = io.BytesIO()
    PHOTO.convert("RGBA" if "rgba" in spec else "RGB").save(stream, "PNG")
    decode = make_decoder(spec)
    picture = decode({"__key__": "k", "png": stream.getvalue()})["png"]
    data = Encoder(spec)(picture, extension)
    again = decode({"__key__": "k", extension: data})[extension]
    assert type(again) is type(picture)
    assert np.array_equal(np.asarray(again), np.asarray(picture))


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Unpicklable:
    def __reduce__(self) -> Any:
        raise NoText


class Shouting:
    def __str__(self) -> str:
        raise ValueError("x" * 6_000_000)


@pytest.mark.parametrize(
    ("value", "field", "parts"),
    [
        (np.zeros((3, 8, 8), "uint8"), "jpg", ["shape (3, 8, 8) and type uint8", ".transpose(1, 2, 0)"]),
        (np.zeros((8, 8, 4), "uint8"), "png", ["shape (8, 8, 4)", "(height, width, 3)"]),
        (np.zeros((8,)), "png", ["shape (8,)", "(height, width)"]),
        (np.zeros(()), "png", ["shape ()", "(height, width)"]),
        (np.zeros((8, 8, 3), "int64"), "png", ["shape (8, 8, 3) and type int64", "TypeError"]),
        (np.full((8, 8), np.nan), "png", ["between nan and nan"]),
        (np.full((8, 8), 255.0), "png", ["between 0 and 1", "255.0"]),
        (np.zeros((0, 0), "uint8"), "png", ["ValueError"]),
        (Image.new("RGBA", (8, 8)), "jpg", ["cannot write mode RGBA as JPEG"]),
        ([1, 2], "jpg", ["(list)", "PIL image"]),
        ([1, 2], "npz", ["(list)", "raised by `assert"]),
        ({"a": 1}, "npz", ["(dict)", "raised by `assert"]),
        (5, "wav", ["'wav' (int)", "there is no encoder for 'wav'"]),
        (5, "", ["there is no encoder"]),
        (Unpicklable(), "pkl", ["'pkl' (Unpicklable)", "NoText"]),
        (Shouting(), "cls", ["'cls' (Shouting)", "ValueError: xxx"]),
        ({1: {2}}, "json", ["TypeError", "set"]),
        ("\ud800", "txt", ["surrogates not allowed"]),
        (5, "a\udce9" * 5000, ["there is no encoder"]),
    ],
    ids=range(19),
)
def test_what_cannot_be_encoded_is_named_with_type_shape_and_reason(value: Any, field: str, parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its text is looked at below)
        Encoder()(value, field)
    text = str(caught.value)
    assert "can't be encoded: " in text
    assert len(text) < 5000
    for part in parts:
        assert part in text


def test_a_tensor_where_the_decoder_gives_none_is_refused_with_the_way_out() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"Tensor of shape \(3, 8, 8\).*permute\(1, 2, 0\)"):
        Encoder("pil")(torch.zeros(3, 8, 8), "jpg")


def test_running_out_of_memory_is_not_taken_for_a_bad_value() -> None:
    class Huge:
        def __reduce__(self) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        Encoder()(Huge(), "pkl")
