"""Records of other versions are read where they can be, and refused with words where they can't."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate import wire
from shardgate.records import RecordError, pack_record, unpack_record


@dataclass(frozen=True)
class Inner:
    count: int = 0


@dataclass(frozen=True)
class Example:
    name: str
    ratio: float = 0.0
    flag: bool = False
    inner: Inner | None = None
    reasons: dict[int, str] = field(default_factory=dict)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.floats(0, 1e9), st.booleans(), st.integers(0, 2**63 - 1))
def test_a_record_reads_back(name: str, ratio: float, flag: bool, count: int) -> None:
    record = Example(name, ratio, flag, Inner(count), {3: "three"})
    assert unpack_record(Example, pack_record(record)) == record


def test_keys_of_a_newer_version_are_ignored_and_missing_ones_take_their_default() -> None:
    payload = msgpack.packb({"name": "n", "later": {"deep": [1]}, "inner": {"count": 1, "later": 2}})
    assert unpack_record(Example, payload) == Example("n", inner=Inner(1))


NO_EXAMPLES: list[object] = [
    [],
    None,
    {},
    {"name": 1},
    {"name": "n", "ratio": math.nan},
    {"name": "n", "ratio": math.inf},
    {"name": "n", "ratio": -1},
    {"name": "n", "flag": 1},
    {"name": "n", "inner": 3},
    {"name": "n", "inner": {"count": "1"}},
    {"name": "n", "reasons": {"3": "x"}},
    {"name": "n", "reasons": dict.fromkeys(range(5000), "x")},
]


@pytest.mark.parametrize("data", NO_EXAMPLES)
def test_values_of_other_types_are_refused(data: object) -> None:
    with pytest.raises(RecordError):
        unpack_record(Example, msgpack.packb(data))


@given(st.binary(max_size=200) | anything.map(msgpack.packb))
def test_nothing_but_a_record_error_comes_of_any_bytes(payload: bytes) -> None:
    for kind in (Example, wire.Job, wire.Hello, wire.End, wire.Failure):
        with contextlib.suppress(RecordError):
            assert isinstance(unpack_record(kind, payload), kind)


@given(st.dictionaries(st.sampled_from(list(wire.Job.__dataclass_fields__)), anything))
def test_a_job_of_any_values_is_read_or_refused(values: dict[str, object]) -> None:
    with contextlib.suppress(RecordError):
        assert wire.Job.unpack(wire.Job.unpack(msgpack.packb(values)).pack()).version == wire.PROTOCOL


def test_times_that_a_patched_clock_gave_do_not_cost_the_result() -> None:
    end = wire.End(1, wire.Stats(samples_in=3, function_seconds=math.nan, encode_seconds=-5.0, decode_seconds=math.inf))
    assert wire.End.unpack(end.pack()).stats == wire.Stats(samples_in=3)


def test_a_failure_of_any_texts_can_be_packed() -> None:
    failure = wire.Failure("sample_failed", "m" * 9_000_000, "h\udce9", 3, "k\udce9" * 9000, "t" * 9_000_000)
    packed = failure.pack()
    assert len(packed) < 64_000
    assert wire.Failure.unpack(packed).message.startswith("mmm")
