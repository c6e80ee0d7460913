from __future__ import annotations

import enum
import io
import signal
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from runtime_process import members_of, tar_of

from shardgate import wire
from shardgate_runtime.decoding import make_decoder
from shardgate_runtime.failures import JobFailed, SampleFailed
from shardgate_runtime.package import _with_args
from shardgate_runtime.samples import Clock, SampleProcessor, normalise
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
        make_decoder("pil")({"__key__": "k", "jpg": b"no picture"})["jpg"]


def test_an_image_bomb_is_a_failure_of_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SampleFailed, match="DecompressionBombError"):
        make_decoder("pil")({"__key__": "k", "jpg": FIELDS["jpg"]})["jpg"]


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


def run(function: Any, decoder: str = "pil", **fields: bytes) -> dict[str, bytes]:
    process = processor(lambda sample, _args: function(sample), decoder=decoder)
    return outputs(process, 0, "k", fields)


def outputs(process: SampleProcessor, index: int, key: str, fields: dict[str, bytes]) -> dict[str, bytes]:
    raw = RawSample(index, 0, key, fields={"__key__": key, "__url__": "mem://b/s.tar", **fields})
    pieces, _ = process.process(raw)
    assert not raw.fields
    data = b"".join(piece.tobytes() if isinstance(piece, np.ndarray) else bytes(piece) for piece in pieces)
    return dict(members_of(data + bytes(1024)))


def test_a_broken_field_that_nobody_reads_is_no_failure() -> None:
    assert run(lambda sample: sample, jpg=b"broken", cls=b"07") == {"k.jpg": b"broken", "k.cls": b"07"}


def test_a_broken_field_may_be_caught_by_the_function() -> None:
    def lenient(sample: Any) -> Any:
        try:
            sample["jpg"].load()
        except Exception:  # noqa: BLE001
            del sample["jpg"]
        return sample

    assert run(lenient, jpg=b"broken", cls=b"07") == {"k.cls": b"07"}


def test_a_field_whose_decoding_fails_is_named_with_a_fitting_hint() -> None:
    with pytest.raises(
        SampleFailed, match="field 'jpg' can't be decoded as 'pil': OSError: image file is trunc"
    ) as caught:
        run(lambda sample: {"txt": str(sample["jpg"].size)}, jpg=FIELDS["jpg"][:-50])
    assert "wd_decoder" in caught.value.hint
    assert "setup()" in caught.value.hint


def test_a_switch_of_pillow_that_is_missing_in_the_worker_is_hinted_at_where_the_function_decodes() -> None:
    with pytest.raises(SampleFailed, match="OSError: image file is truncated") as caught:
        run(lambda sample: Image.open(io.BytesIO(sample["jpg"])).load(), decoder="", jpg=FIELDS["jpg"][:-50])
    assert "setup()" in caught.value.hint
    assert "<lambda>" in caught.value.traceback


def test_a_key_that_the_sample_does_not_have_is_answered_with_those_that_it_has() -> None:
    with pytest.raises(SampleFailed, match="KeyError: 'jpeg'") as caught:
        run(lambda sample: sample["jpeg"], jpg=FIELDS["jpg"], cls=b"7")
    assert caught.value.hint == "the sample has the fields cls, jpg"
    with pytest.raises(SampleFailed, match="KeyError: 'jpeg'") as caught:
        run(lambda sample: sample["jpeg"], jpg=b"x", cls=b"7")
    assert caught.value.hint.startswith(
        "the sample has the fields cls, jpg; field 'jpg' can't be decoded as 'pil': Unid"
    )


def test_a_module_that_is_missing_is_hinted_at() -> None:
    with pytest.raises(SampleFailed, match="ModuleNotFoundError: No module named 'not_there'") as caught:
        run(lambda _sample: __import__("not_there"), cls=b"7")
    assert "requirements" in caught.value.hint


def test_a_dict_that_is_returned_again_and_again_does_not_carry_a_key_along() -> None:
    constant = {"txt": "x"}
    process = processor(lambda _sample, _args: constant, decoder="pil")
    assert outputs(process, 0, "a", {"cls": b"1"}) == {"a.txt": b"x"}
    assert outputs(process, 1, "b", {"cls": b"1"}) == {"b.txt": b"x"}
    assert constant == {"txt": "x"}


def test_a_key_that_comes_twice_in_the_output_ends_the_job_and_is_named() -> None:
    process = processor(lambda sample, _args: {**sample, "__key__": "cat"}, decoder="pil")
    assert outputs(process, 0, "a", {"txt": b"x"}) == {"cat.txt": b"x"}
    with pytest.raises(JobFailed) as caught:
        outputs(process, 7, "b", {"txt": b"x"})
    failure = caught.value.failure
    assert failure.code == "sample_failed"
    assert failure.message == (
        """the __key__ 'cat' is that of an earlier sample of the output already (sample 7, "b", of mem://b/s.tar)"""
    )
    assert (failure.sample, failure.key) == (7, "b")


def test_numbered_keys_that_meet_another_key_end_the_job() -> None:
    process = processor(lambda sample, _args: [{**sample, "__key__": key} for key in ("x", "x", "x-0")])
    with pytest.raises(JobFailed, match="'x-0'"):
        outputs(process, 0, "a", {"txt": b"x"})


@pytest.mark.parametrize("result", [{}, {"__key__": "x"}, {"_hidden": 1}, [{}, {"txt": "a"}]])
def test_a_sample_without_fields_is_refused_for_no_reader_would_see_it(result: Any) -> None:
    with pytest.raises(SampleFailed, match="without fields"):
        run(lambda _sample: result, txt=b"x")


def test_a_sample_of_nothing_but_hidden_fields_does_not_vanish() -> None:
    with pytest.raises(SampleFailed, match="without fields"):
        run(lambda sample: sample, _meta=b"x")


class Shape(enum.StrEnum):
    KEY = "round"
    FIELD = "txt"


def test_keys_and_names_that_are_special_text_are_written_as_their_text() -> None:
    class Loud(str):
        __slots__ = ()

        def __format__(self, _spec: str) -> str:
            return "loud"

    assert run(lambda _s: {"__key__": Shape.KEY, Shape.FIELD: "a"}, txt=b"x") == {"round.txt": b"a"}
    assert run(lambda _s: {"__key__": Loud("k"), Loud("txt"): "a"}, txt=b"x") == {"k.txt": b"a"}


def test_a_sample_kept_from_an_earlier_call_can_be_read_and_written() -> None:
    kept: list[Any] = []

    def late(sample: Any, _args: str) -> Any:
        kept.append(sample)
        if len(kept) == 1:
            return None
        return {
            **sample,
            "before.cls": kept[0]["cls"],
            "before.jpg": kept[0]["jpg"],
            "before.png": dict.get(kept[0], "png"),
        }

    process = processor(late, decoder="pil")
    fields = {"cls": b"1", "jpg": FIELDS["jpg"], "png": FIELDS["png"]}
    assert outputs(process, 0, "a", fields) == {}
    members = outputs(process, 1, "b", fields)
    assert members["b.before.cls"] == b"1"
    assert members["b.before.jpg"] == fields["jpg"]
    assert members["b.before.png"] == fields["png"]


def test_an_exception_that_lies_about_itself_is_a_failure_of_its_sample_like_any_other() -> None:
    class Liar(KeyError):
        @property
        def __class__(self) -> Any:
            raise SystemExit

        @property
        def args(self) -> Any:
            raise SystemExit

        def __str__(self) -> str:
            raise KeyboardInterrupt

    def lie(_sample: Any) -> Any:
        raise Liar

    with pytest.raises(SampleFailed, match="Liar: <a Liar whose text can't be made"):
        run(lie, cls=b"7")
