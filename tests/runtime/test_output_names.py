"""A sample whose members do not read back under its key and as its fields is refused, and so is a repeated key."""

from __future__ import annotations

import io
import os
from contextlib import closing

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_iterator, valid_sample

from shardgate_runtime import output_names
from shardgate_runtime.failures import SampleFailed
from shardgate_runtime.inputs import FileInput
from shardgate_runtime.output_names import Keys, check_names
from shardgate_runtime.tar_reader import read_samples
from shardgate_runtime.tar_writer import encode_sample, end_of_archive

texts = st.text(st.sampled_from("ab./_\0 \né\udce9\udcc3\udca9\ud800B"), max_size=8) | st.text(max_size=6)
keys = texts | st.sampled_from(
    ["__a__", "__a__/b", "a/", "/a", "./a", "../a", ".a", "a/.b", "__a", "x" * 200, "é" * 90]
)
names = texts | st.sampled_from(["txt", "TXT", "a.txt", "x__", "b.__", "y" * 120])


def by_us(data: bytes) -> list[dict]:
    fd = os.memfd_create("shard")
    os.write(fd, data)
    with closing(FileInput(fd, 0, len(data), 0)) as source:
        return [{k: v for k, v in raw.fields.items() if k != "__url__"} for raw in read_samples(source, "", 0)]


def written(sample: dict) -> bytes:
    pieces: list = []
    encode_sample(sample, pieces)
    data = b"".join(bytes(piece) for piece in pieces)
    return data + end_of_archive(len(data))


def by_webdataset(data: bytes) -> list[dict]:
    files = ({**file, "__url__": ""} for file in tar_file_iterator(io.BytesIO(data)))
    samples = [sample for sample in group_by_keys(files) if valid_sample(sample)]
    return [{k: v for k, v in sample.items() if k not in ("__url__", "__local_path__")} for sample in samples]


@given(keys, st.lists(names, min_size=1, max_size=3, unique=True))
@settings(deadline=None, max_examples=200)
def test_whatever_is_accepted_reads_back_as_it_was(key: str, fields: list[str]) -> None:
    sample = {"__key__": key, **{field: b"x" for field in fields if field[:1] != "_" and field}}
    assume(not any(field.lower().endswith("gz") for field in fields))  # their values are compressed
    try:
        check_names(sample)
    except SampleFailed:
        return
    expected = [{"__key__": key, **{field.lower(): b"x" for field in sample if field != "__key__"}}]
    if len(sample) == 1:
        expected = []
    data = written(sample)
    assert by_webdataset(data) == expected
    assert by_us(data) == expected


@pytest.mark.parametrize(
    "key", ["", ".", "a.b", "img_1.jpg", "a/.b", "a/b.c", "k\0\0", "\ud800", "\udcc3\udca9", "a/", "d/__MACOSX/a"]
)
def test_keys_that_do_not_read_back_are_refused(key: str) -> None:
    sample = {"__key__": key, "txt": b"x"}
    with pytest.raises(SampleFailed, match="__key__"):
        check_names(sample)


@pytest.mark.parametrize("key", ["a", "v1.5/a", "a b", "é", "caf\udce9", "_a", "__a", "x" * 3000, "a\nb"])
def test_keys_that_read_back_are_taken(key: str) -> None:
    check_names({"__key__": key, "txt": b"x", "_not": 1, "__neither__": 2})


@pytest.mark.parametrize("fields", [["a/b"], ["a\0"], ["\ud800"], ["jpg", "JPG"], ["x" * 40_000]])
def test_fields_that_do_not_read_back_are_refused(fields: list[str]) -> None:
    with pytest.raises(SampleFailed, match="field"):
        check_names({"__key__": "k", **dict.fromkeys(fields, b"")})


def test_names_that_readers_take_for_those_of_the_archive_are_refused() -> None:
    with pytest.raises(SampleFailed):
        check_names({"__key__": "__a", "b__": b""})
    with pytest.raises(SampleFailed):
        check_names({"__key__": "__a__/b", "txt": b""})


def test_keys_are_found_again_after_they_were_sorted_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_names, "RECENT", 10)
    keys = Keys()
    assert all(keys.add(f"{number}") for number in range(95))
    assert not any(keys.add(f"{number}") for number in range(95))
    assert keys.add("95")
