"""What a bad sample does to a shard, under every policy, with real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import Conversation, Runtime, members_of, tar_of

from shardgate import wire

if TYPE_CHECKING:
    from collections.abc import Callable

BAD = 2
COUNT = 5


def misbehave(sample: dict[str, Any]) -> Any:  # noqa: C901, PLR0912 - a list of misdeeds
    """Do what the sample says."""
    import ctypes
    import os
    import sys
    import time

    what = sample["do"].decode()
    if what == "none":
        return None
    if what == "raise":
        raise RuntimeError("this sample is no good")
    if what == "quit":
        sys.exit("bye")
    if what == "number":
        return 5
    if what == "badlist":
        return [sample, "no dict"]
    if what == "badkey":
        return {"__key__": 5, "txt": "a"}
    if what == "badvalue":
        return {"npy": [1, 2, 3]}
    if what == "sleep":
        time.sleep(60)
    if what == "swallow":
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001
            return sample
    if what == "segfault":
        ctypes.string_at(0)
    if what == "exit":
        os._exit(3)
    if what == "hang":
        sum(range(10**12))  # in C, without a look at signals
    return {"txt": f"{sample['__key__']} done"}


def shard(what: str, at: int = BAD) -> bytes:
    return tar_of([(f"{i:02d}.do", what.encode() if i == at else b"work") for i in range(COUNT)])


POLICIES = ["fail", "skip", "warn"]


@pytest.fixture(scope="module", params=POLICIES)
def runtime(request: pytest.FixtureRequest, start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(misbehave, on_error=request.param, sample_timeout=0.5, name=request.param)


def policy(runtime: Runtime) -> str:
    return runtime.id.split("-", maxsplit=1)[0]


def good_names(*missing: int) -> list[str]:
    return [f"{i:02d}.txt" for i in range(COUNT) if i not in missing]


def names(conversation: Conversation) -> list[str]:
    return [name for name, _ in members_of(bytes(conversation.output))]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raise", "RuntimeError: this sample is no good"),
        ("quit", "SystemExit: bye"),
        ("number", "the function returned a int"),
        ("badlist", "the function returned a list with dict, str in it"),
        ("badkey", "__key__ is a int, not a str"),
        ("badvalue", "the value of 'npy' (list) can't be encoded"),
        ("sleep", "sample timeout after 0.5 s"),
        ("swallow", "sample timeout after 0.5 s"),
    ],
)
@pytest.mark.parametrize("ring", [True, False])
def test_a_failing_sample_is_treated_by_the_policy(runtime: Runtime, what: str, message: str, ring: bool) -> None:
    conversation = runtime.run(shard(what), ring=ring, request_id=f"{what}-{ring}")
    assert not conversation.lost
    if policy(runtime) == "fail":
        failure = conversation.failure
        assert failure.code == "sample_failed"
        assert message in failure.message
        assert 'sample 2, "02", of mem://b/shard.tar' in failure.message
        assert (failure.sample, failure.key) == (BAD, "02")
        assert failure.stats.samples_out == BAD
        assert [name.encode() for name in good_names() if name < "02"] == [
            name for name in (b"00.txt", b"01.txt") if name in conversation.output
        ]
        return
    assert conversation.failure is None
    assert names(conversation) == good_names(BAD)
    stats = conversation.stats
    assert (stats.samples_in, stats.samples_out, stats.samples_skipped) == (COUNT, COUNT - 1, 1)
    if what == "raise":
        assert ("Traceback" in runtime.log) is (policy(runtime) == "warn")
    assert f"{what}-{ring}: left out: {message}" in runtime.log


def test_the_users_traceback_shows_only_user_code(runtime: Runtime) -> None:
    failure = runtime.run(shard("raise")).failure
    trace = {"fail": failure.traceback if failure else "", "warn": runtime.log, "skip": ""}[policy(runtime)]
    assert ('raise RuntimeError("this sample is no good")' in trace) is (policy(runtime) != "skip")
    assert "shardgate_runtime/job.py" not in trace


def test_none_leaves_a_sample_out_under_every_policy(runtime: Runtime) -> None:
    conversation = runtime.run(shard("none"))
    assert names(conversation) == good_names(BAD)
    assert conversation.stats.samples_skipped == 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("exit", "exit code 3"),
        ("hang", "sample timeout after 0.5 s"),
    ],
)
@pytest.mark.parametrize("careful", [True, False])
def test_a_sample_that_kills_its_worker_is_named_to_the_next_attempt(
    runtime: Runtime, what: str, reason: str, careful: bool
) -> None:
    request = f"{what}-{careful}"
    first = runtime.run(shard(what), ring=True, careful=careful, request_id=request)
    assert first.lost
    assert first.hello.death is None
    if careful:
        assert first.checkpoints[-1][1].next_sample == BAD
    again = runtime.run(shard("work"), ring=True, request_id=request)
    assert again.hello.death == wire.Death(BAD, "02", reason, deterministic=True)
    assert runtime.run(shard("work"), request_id=request).hello.death is None, "a death is reported once"


@pytest.mark.parametrize("ring", [True, False])
def test_a_poisonous_sample_is_not_run_again(runtime: Runtime, ring: bool) -> None:
    conversation = runtime.run(shard("segfault"), ring=ring, poison={BAD: "killed by SIGSEGV"})
    if policy(runtime) == "fail":
        assert "killed by SIGSEGV (sample 2" in conversation.failure.message
        assert (conversation.failure.sample, conversation.failure.key) == (BAD, "02")
    else:
        assert names(conversation) == good_names(BAD)
        assert conversation.stats.samples_skipped == 1


def test_a_damaged_sample_of_the_shard_is_treated_by_the_policy(runtime: Runtime) -> None:
    data = tar_of([("a.do", b"work"), ("b.do", b"work"), ("b.do", b"work"), ("c.do", b"work")])
    conversation = runtime.run(data)
    if policy(runtime) == "fail":
        assert conversation.failure.code == "input_invalid"
        assert "two members" in conversation.failure.message
    else:
        assert names(conversation) == ["a.txt", "c.txt"]


def test_a_truncated_shard_fails_under_every_policy(runtime: Runtime) -> None:
    conversation = runtime.run(shard("work")[:2100])
    assert conversation.failure.code == "input_invalid"
    assert "truncated" in conversation.failure.message or "ends inside" in conversation.failure.message
