"""A worker says before its first byte whether its function gives the same bytes twice."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import Runtime, members_of, tar_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARD = tar_of([(f"{i}.txt", str(i).encode()) for i in range(5)])


def from_system(sample: dict[str, Any]) -> dict[str, Any]:
    return {"bin": os.urandom(8)}


def seeded(sample: dict[str, Any]) -> dict[str, Any]:
    import random

    return {"txt": str(random.random())}


def plain(sample: dict[str, Any]) -> dict[str, Any]:
    return {"txt": sample["txt"]}


def fails(sample: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("no")


class Counts:
    count = 0

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {"txt": f"{sample['txt'].decode()} {self.count}"}


@pytest.mark.parametrize(
    ("function", "reproducible", "drew"),
    [(from_system, False, 0), (Counts, False, 0), (seeded, True, 1), (plain, True, 0)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_hello_says_whether_the_first_sample_came_out_the_same_twice(
    start: Callable[..., Runtime], function: Any, reproducible: bool, drew: int
) -> None:
    runtime = start(function)
    first = runtime.run(SHARD)
    assert first.hello is not None
    assert first.hello.reproducible is reproducible
    assert first.stats is not None
    assert first.stats.samples_unstable == (not reproducible)
    assert first.stats.samples_random == drew
    assert first.stats.samples_in == len(members_of(bytes(first.output))) == 5
    again = runtime.run(SHARD)
    assert again.hello is not None
    assert again.hello.reproducible is reproducible


def of_bytes(data: bytes) -> bytes:
    return data + os.urandom(4)


def chunks_of_bytes(data: bytes) -> Any:
    import random

    yield data
    yield random.randbytes(4)


@pytest.mark.parametrize(("function", "reproducible"), [(of_bytes, False), (chunks_of_bytes, True)])
def test_a_function_of_bytes_is_compared_too(start: Callable[..., Runtime], function: Any, reproducible: bool) -> None:
    conversation = start(function, kind="bytes").run(b"data")
    assert conversation.hello is not None
    assert conversation.hello.reproducible is reproducible
    assert len(conversation.output) == 8


def test_a_job_that_fails_at_its_first_sample_says_hello_before(start: Callable[..., Runtime]) -> None:
    conversation = start(fails).run(SHARD)
    assert conversation.hello is not None
    assert conversation.failure is not None
    assert "ValueError: no" in conversation.failure.message


@pytest.mark.parametrize("shard", [tar_of([]), b"no tar" * 1000])
def test_a_job_without_a_sample_says_hello(start: Callable[..., Runtime], shard: bytes) -> None:
    conversation = start(plain).run(shard)
    assert conversation.hello is not None
    assert (conversation.failure is None) == (shard == tar_of([]))


def test_a_sample_that_kills_its_worker_is_named_at_once_by_the_next(
    start: Callable[..., Runtime], tmp_path: Path
) -> None:
    def kills(sample: dict[str, Any]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return sample

    runtime = start(kills)
    first = runtime.run(SHARD)
    assert first.lost
    assert first.hello is None, "it died before it could say anything"
    second = runtime.run(SHARD)
    assert second.hello is not None
    assert second.hello.death is not None
    assert second.hello.death.sample == 0


def test_a_sample_that_must_not_run_again_is_not_compared(start: Callable[..., Runtime]) -> None:
    def exits(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["txt"] == b"0":
            os._exit(3)
        return sample

    conversation = start(exits, on_error="skip").run(SHARD, poison={0: "it killed its worker"})
    assert not conversation.lost
    assert [name for name, _ in members_of(bytes(conversation.output))] == [f"{i}.txt" for i in range(1, 5)]


def test_output_of_a_compared_sample_is_printed_by_both_runs(start: Callable[..., Runtime]) -> None:
    def prints(sample: dict[str, Any]) -> dict[str, Any]:
        print("called for", sample["txt"].decode(), file=sys.stderr)
        return sample

    runtime = start(prints)
    assert runtime.run(SHARD).stats is not None
    assert runtime.log.count("called for 0") == 3
    assert runtime.log.count("called for 1") == 1
