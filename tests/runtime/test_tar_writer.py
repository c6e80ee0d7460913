from __future__ import annotations

import io
import re

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from shardgate_runtime.tar_writer import encode_sample, end_of_archive


def theirs(*samples: dict) -> bytes:
    stream = io.BytesIO()
    with wds.TarWriter(stream, mtime=0) as writer:
        for sample in samples:
            writer.write(sample)
    return stream.getvalue()


def ours(*samples: dict) -> bytes:
    pieces = []
    for sample in samples:
        encode_sample(sample, pieces)
    data = b"".join(piece.tobytes("A") if isinstance(piece, np.ndarray) else bytes(piece) for piece in pieces)
    return data + end_of_archive(len(data))


keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200)
dtypes = st.one_of(
    npst.integer_dtypes(endianness="?"),
    npst.floating_dtypes(),
    npst.boolean_dtypes(),
    npst.complex_number_dtypes(),
)
values = st.one_of(
    st.tuples(st.sampled_from(["txt", "x.text", "html"]), st.text(max_size=50)),
    st.tuples(st.sampled_from(["cls", "index", "id", "a.count"]), st.integers()),
    st.tuples(st.sampled_from(["jpg", "bin", "npy", "JSON"]), st.binary(max_size=2000)),
    st.tuples(st.sampled_from(["json", "jsn"]), st.dictionaries(st.text(max_size=5), st.integers())),
    st.tuples(st.sampled_from(["pyd", "mp", "msg"]), st.lists(st.integers(0, 100))),
    st.tuples(
        st.sampled_from(["npy", "a.npy", "NPY"]),
        npst.arrays(
            dtypes,
            npst.array_shapes(min_dims=0, min_side=0, max_side=5),
        ),
    ),
)


@given(keys, st.lists(values, max_size=5))
@settings(deadline=None)
def test_writes_the_same_bytes_as_webdataset(key: str, fields: list) -> None:
    sample = {"__key__": key, "__url__": "mem://x", **dict(fields)}
    assert ours(sample) == theirs(sample)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(1, 2, 0),
        np.asfortranarray(np.arange(12, dtype="i8").reshape(3, 4)),
        np.arange(20, dtype="u1")[::-2],
        np.arange(20, dtype="u2").reshape(4, 5)[:, 1:3],
        np.float64(3.5) * np.ones(()),
        np.zeros((0, 3), "f4"),
        np.array([("a", 1)], dtype=[("name", "U3"), ("n", "i4")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.arange(3, dtype=">f4"),
    ],
    ids=str,
)
def test_arrays_of_every_layout_are_written_as_numpy_saves_them(array: np.ndarray) -> None:
    assert ours({"__key__": "k", "npy": array}) == theirs({"__key__": "k", "npy": array})


def test_images_go_through_webdatasets_encoder() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), "uint8"))
    sample = {"__key__": "k", "png": image, "jpg": np.asarray(image) / 255.0, "npz": {"a": np.arange(3)}}
    written = {k: v for k, v in sample.items() if k != "npz"}
    assert ours(written) == theirs(written)


def test_keys_with_an_underscore_are_not_written_whatever_their_value() -> None:
    assert ours({"__key__": "k", "_n": 5, "__x__": object(), "txt": "a"}) == theirs({"__key__": "k", "txt": "a"})


@pytest.mark.parametrize("count", [0, 1, 7, 19, 20, 21])
def test_the_archive_ends_where_tarfile_ends_it(count: int) -> None:
    samples = [{"__key__": f"{i}", "txt": "x" * 100} for i in range(count)]
    assert ours(*samples) == theirs(*samples)


@pytest.mark.parametrize(
    ("sample", "part"),
    [
        ({"xyz": 5}, "'xyz' (int)"),
        ({"jpg": "5"}, None),
        ({"jpg": object()}, "'jpg' (object)"),
        ({"npy": [1, 2]}, "'npy' (list)"),
        ({"txt": 5}, "'txt' (int)"),
        ({"json": object()}, "'json' (object)"),
    ],
)
def test_a_value_that_webdataset_cannot_encode_is_named(sample: dict, part: str | None) -> None:
    if part is None:
        assert ours({"__key__": "k", **sample}) == theirs({"__key__": "k", **sample})
        return
    with pytest.raises(ValueError, match=re.escape(part)):
        ours({"__key__": "k", **sample})
