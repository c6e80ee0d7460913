"""No access to a sample shows what is stored in it undecoded, and what was not read stays as it is."""

from __future__ import annotations

import collections
import copy
import json
import pickle
import pprint
import string
import threading
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from shardgate_runtime.decoding import make_decoder
from shardgate_runtime.failures import SampleFailed
from shardgate_runtime.lazy_sample import Sample, Unread, stored

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = {"__key__": "k", "__url__": "u", "txt": b"text", "cls": b"7", "json": b'{"a": [1]}', "bin": b"\0"}
VALUES = {"__key__": "k", "__url__": "u", "txt": "text", "cls": 7, "json": {"a": [1]}, "bin": b"\0"}
WITHOUT_BYTES = {name: value for name, value in VALUES.items() if name != "bin"}


def fresh(**more: bytes) -> Sample:
    sample = make_decoder("pil")({**FIELDS, **more})
    assert isinstance(sample, Sample)
    return sample


def without_bytes() -> Sample:
    sample = fresh()
    del sample["bin"]
    return sample


def unread(sample: dict[str, Any]) -> set[str]:
    return {name for name, value in stored(sample).items() if type(value) is Unread}


class Attributes(dict[str, Any]):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.__dict__ = self


def by_match(sample: Any) -> Any:
    match sample:
        case {"cls": number, **rest}:
            return {"cls": number, **rest}


def by_update(sample: Any) -> Any:
    target = {"other": 1}
    target.update(sample)
    return {name: value for name, value in target.items() if name != "other"}


def by_or(sample: Any) -> Any:
    target: dict[str, Any] = {}
    target |= sample
    return target


def keywords(**fields: Any) -> Any:
    return fields


def by_popitem(sample: Any) -> Any:
    return dict([sample.popitem() for _ in range(len(sample))][::-1])


def slowly(sample: Any) -> Any:
    return {name: sample[name] for name in list(sample)}


READS: list[Callable[[Any], Any]] = [
    dict,
    lambda sample: {**sample},
    lambda sample: keywords(**sample),
    lambda sample: dict(sample.items()),
    lambda sample: dict(reversed(list(reversed(sample.items())))),
    lambda sample: dict(zip(sample, sample.values(), strict=True)),
    lambda sample: dict(zip(reversed(sample), reversed(sample.values()), strict=True)),
    lambda sample: {name: sample.get(name) for name in sample},
    lambda sample: {name: sample.pop(name) for name in list(sample)},
    lambda sample: {name: sample.setdefault(name, 0) for name in sample},
    lambda sample: {name: value for name, value in sample.items()},  # noqa: C416 (a loop over items is the point)
    lambda sample: dict(collections.ChainMap({}, sample)),
    lambda sample: dict(collections.OrderedDict(sample)),
    lambda sample: dict(collections.defaultdict(int, sample)),
    lambda sample: dict(collections.UserDict(sample)),
    lambda sample: dict(Attributes(sample)),
    dict.copy,
    slowly,
    by_match,
    by_update,
    by_or,
    by_popitem,
    lambda sample: pickle.loads(pickle.dumps(sample)),
    lambda sample: pickle.loads(pickle.dumps(sample, protocol=0)),
    lambda sample: pickle.loads(pickle._dumps(sample)),  # type: ignore[attr-defined] # the one in Python
    lambda sample: eval(repr(sample)),
    lambda sample: eval(f"{sample}"),
    lambda sample: eval(pprint.pformat(sample)),
    lambda sample: eval("dict(%r)" % (sample,)),  # noqa: UP031
    lambda sample: msgpack.unpackb(msgpack.packb(sample)),
    lambda sample: eval("dict(__key__=__key__, __url__=__url__, txt=txt, cls=cls, json=json, bin=bin)", {}, sample),
    copy.copy,
    copy.deepcopy,
    Sample.copy,
    lambda sample: sample | {},
    lambda sample: {} | sample,
    lambda sample: type(sample)(sample),
    lambda sample: type(sample)(**sample),
    lambda sample: type(sample)((name, value) for name, value in sample.items()),
]


@pytest.mark.parametrize("read", READS, ids=range(len(READS)))
def test_every_way_to_read_gives_decoded_values(read: Callable[[Any], Any]) -> None:
    result = read(fresh())
    assert {name: result[name] for name in result} == VALUES
    assert result == VALUES
    assert type(result) in (dict, Sample)
    assert not unread(dict(result))


def test_writers_of_json_do_not_meet_undecoded_fields() -> None:
    assert json.loads(json.dumps(without_bytes())) == WITHOUT_BYTES
    assert json.loads(json.dumps(without_bytes(), indent=1, sort_keys=True)) == WITHOUT_BYTES
    assert json.loads(json.dumps({"nested": [without_bytes()]})) == {"nested": [WITHOUT_BYTES]}


def test_formatting_reads_the_fields_that_it_names() -> None:
    sample = fresh()
    assert "%(cls)d %(txt)s" % sample == "7 text"  # noqa: UP031 (asks the sample in another way)
    assert "{cls} {txt}".format_map(sample) == "7 text"
    assert "{json[a]}".format(**sample) == "[1]"
    assert string.Template("$cls").substitute(fresh()) == "7"


def test_it_is_equal_to_a_dict_of_the_values_from_both_sides() -> None:
    assert fresh() == VALUES
    assert VALUES == fresh()  # noqa: SIM300 (the other side)
    assert fresh() == fresh()
    assert fresh() != {**VALUES, "cls": 8}
    assert {**VALUES, "cls": 8} != fresh()  # noqa: SIM300
    assert (VALUES, 1) == (fresh(), 1)  # noqa: SIM300
    assert fresh().items() == VALUES.items()
    assert fresh().keys() == VALUES.keys()
    assert list(fresh()) == list(VALUES)
    assert len(fresh()) == len(VALUES)


def test_it_is_a_dict() -> None:
    sample = fresh()
    assert isinstance(sample, dict)
    with pytest.raises(KeyError, match="jpeg"):
        sample["jpeg"]
    with pytest.raises(KeyError, match="jpeg"):
        sample.pop("jpeg")
    assert sample.pop("jpeg", 5) == 5
    assert sample.get("jpeg", 6) == 6
    assert sample.setdefault("new", 7) == sample["new"] == 7
    with pytest.raises(TypeError, match="unhashable"):
        hash(sample)
    sample.clear()
    assert not sample
    with pytest.raises(KeyError):
        sample.popitem()


def test_only_what_is_read_is_decoded() -> None:
    sample = fresh(jpg=b"no picture")
    assert sample["cls"] == 7
    assert "jpg" in sample
    assert list(sample.keys())
    del sample["txt"]
    assert unread(sample) == {"json", "bin", "jpg"}
    with pytest.raises(SampleFailed, match="field 'jpg' can't be decoded"):
        sample["jpg"]


@pytest.mark.parametrize("access", [lambda s: s.pop("jpg"), lambda s: s.get("jpg"), dict, repr, lambda s: {**s}])
def test_a_field_that_cannot_be_decoded_stays_in_the_sample(access: Callable[[Any], Any]) -> None:
    sample = fresh(jpg=b"no picture")
    for _ in range(2):
        with pytest.raises(SampleFailed, match="field 'jpg' can't be decoded"):
            access(sample)
    assert "jpg" in unread(sample)


@pytest.mark.parametrize(
    "duplicate",
    [Sample.copy, copy.copy, copy.deepcopy, lambda s: s | {"new": 1}, lambda s: {"new": 1} | s],
)
def test_copies_decode_nothing(duplicate: Callable[[Any], Any]) -> None:
    sample = fresh(jpg=b"no picture")
    twin = duplicate(sample)
    assert unread(twin) == {"json", "bin", "jpg", "txt", "cls"}
    twin["cls"] = 8
    assert sample["cls"] == 7


def test_update_from_a_sample_decodes_nothing() -> None:
    one, other = fresh(), fresh(jpg=b"no picture")
    one.update(other)
    one |= other
    one.update(cls=9)
    assert unread(one) == {"json", "bin", "jpg", "txt"}
    assert one["cls"] == 9


def test_a_copy_shares_its_values_and_a_deep_copy_does_not() -> None:
    sample = fresh()
    twin, other = sample.copy(), copy.deepcopy(sample)
    sample["json"]["a"].append(2)
    assert twin["json"] is sample["json"]
    assert twin["json"] == {"a": [1, 2]}
    assert other["json"] == {"a": [1]}


def test_threads_that_read_one_field_get_one_object() -> None:
    for _ in range(50):
        sample = fresh()
        barrier, seen = threading.Barrier(4), []

        def read() -> None:
            barrier.wait()  # noqa: B023
            seen.append(sample["json"])  # noqa: B023

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(value) for value in seen}) == 1
        assert sample["json"] is seen[0]


def test_code_that_looks_into_the_storage_is_told_what_it_sees() -> None:
    ((_, value),) = [item for item in dict.items(fresh()) if item[0] == "cls"]
    assert repr(value) == "<field 'cls' that was not read, 1 bytes: take it from the sample by its name>"


def test_items_may_be_set_while_they_are_iterated() -> None:
    sample = fresh()
    for name, value in sample.items():
        if name == "cls":
            sample["cls"] = value + 1
    assert sample == {**VALUES, "cls": 8}
    names = iter(sample)
    sample[next(names) + "2"] = 1
    with pytest.raises(RuntimeError, match="changed size"):
        next(names)
