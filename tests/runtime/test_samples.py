from __future__ import annotations

import io
import signal
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from runtime_process import tar_of

from shardgate import wire
from shardgate_runtime.failures import SampleFailed
from shardgate_runtime.package import _with_args
from shardgate_runtime.samples import Clock, SampleProcessor, make_decoder, normalise
from shardgate_runtime.scoreboard import Scoreboard
from shardgate_runtime.seeds import Seeds
from shardgate_runtime.tar_reader import RawSample
from shardgate_runtime.tar_writer import npy_header


def picture(mode: str, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), "uint8")).convert(mode).save(stream, kind)
    return stream.getvalue()


FIELDS = {
    "jpg": picture("RGB", "JPEG"),
    "gray.jpeg": picture("L", "JPEG"),
    "png": picture("RGBA", "PNG"),
    "cls": b"7",
    "txt": "grüß".encode(),
    "json": b'{"a": [1]}',
    "npy": npy_header(np.dtype("i4"), (3,), fortran=False) + np.arange(3, dtype="i4").tobytes(),
    "bin": b"\0\1",
}


@pytest.mark.parametrize("spec", ["pil", "l", "rgb", "rgb8", "rgba", "pill", "torchrgb", "torchrgb8", "torchl"])
def test_the_function_sees_what_webdataset_would_give_it(spec: str, tmp_path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_of([(f"k.{extension}", data) for extension, data in FIELDS.items()]))
    (theirs,) = wds.WebDataset(f"pipe:cat '{path}'", shardshuffle=False, empty_check=False).decode(spec)
    ours = make_decoder(spec)({"__key__": "k", "__url__": "mem://b/s.tar", **FIELDS})
    assert list(ours) == [key for key in theirs if key != "__local_path__"]
    for key in FIELDS:
        assert type(ours[key]) is type(theirs[key])
        assert np.array_equal(np.asarray(ours[key]), np.asarray(theirs[key]))


def test_without_a_decoder_fields_stay_bytes() -> None:
    assert make_decoder("")(FIELDS) == FIELDS


def test_a_field_that_cannot_be_decoded_is_named() -> None:
    with pytest.raises(SampleFailed, match="field 'jpg' can't be decoded as 'pil': UnidentifiedImageError"):
        make_decoder("pil")({"__key__": "k", "jpg": b"no picture"})


def test_an_image_bomb_is_a_failure_of_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SampleFailed, match="DecompressionBombError"):
        make_decoder("pil")({"__key__": "k", "jpg": FIELDS["jpg"]})


@pytest.mark.parametrize(
    ("result", "keys"),
    [
        (None, []),
        ([], []),
        ({"txt": "a"}, ["k"]),
        ({"__key__": "other"}, ["other"]),
        ([{"txt": "a"}], ["k"]),
        ([{"txt": "a"}, {"txt": "b"}], ["k-0", "k-1"]),
        ([{"__key__": "x"}, {"__key__": "y"}], ["x", "y"]),
        ([{"__key__": "x"}, {}, {}], ["x", "k-1", "k-2"]),
    ],
)
def test_samples_of_a_result_have_distinct_keys(result: Any, keys: list[str]) -> None:
    assert [sample["__key__"] for sample in normalise(result, "k")] == keys


def test_one_dict_twice_in_a_list_becomes_two_samples() -> None:
    sample = {"txt": "a"}
    assert [s["__key__"] for s in normalise([sample, sample], "k")] == ["k-0", "k-1"]


@pytest.mark.parametrize("result", [5, "text", [5], [{}, None], {5: "a"}, {"": "a"}, {"__key__": None}, ({},)])
def test_any_other_result_is_refused_with_a_hint(result: Any) -> None:
    with pytest.raises(SampleFailed) as caught:
        normalise(result, "k")
    assert caught.value.hint


def positional(sample: Any, args: str) -> Any:
    return args


def required(sample: Any, other: str) -> Any:
    return other


def keyword(sample: Any, *, args: str = "default") -> Any:
    return args


def configured(sample: Any, size: str = "224") -> Any:
    return size


def variadic(sample: Any, *args: str) -> Any:
    return args


class Callable:
    def __call__(self, sample: Any, args: str) -> Any:
        return args


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (positional, "x"),
        (required, "x"),
        (keyword, "x"),
        (Callable(), "x"),
        (configured, "224"),
        (variadic, ()),
        (dict, {}),
    ],
)
def test_args_go_to_functions_that_ask_for_them(function: Any, result: Any) -> None:
    assert _with_args(function)({}, "x") == result


def processor(function: Any, timeout: float = 0, decoder: str = "") -> SampleProcessor:
    clock = Clock(Scoreboard(1).slots[0], timeout)
    job = wire.Job("r", "t", "b", "k", "e")
    return SampleProcessor(wire.Manifest("t", decoder=decoder), function, "", Seeds(job), clock, wire.Stats())


def test_a_late_alarm_does_not_hit_the_next_sample() -> None:
    clock = Clock(Scoreboard(1).slots[0], 0.5)
    with clock.sample(0, "a"):
        pass
    signal.raise_signal(signal.SIGALRM)
    with clock.sample(1, "b"):
        pass
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_the_time_of_each_phase_is_counted() -> None:
    import time

    process = processor(lambda sample, _args: time.sleep(0.02) or sample)
    process.process(RawSample(0, 0, "k", fields={"__key__": "k", "txt": b"x"}))
    assert process._stats.function_seconds >= 0.02
    assert 0 < process._stats.decode_seconds < 0.02
    assert 0 < process._stats.encode_seconds < 0.02
