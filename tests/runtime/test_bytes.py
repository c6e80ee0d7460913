"""Transforms of whole objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_process import Runtime

DATA = os.urandom(3_000_000)


def convert(data: bytes, args: str) -> Any:
    import random
    import time

    if args == "chunks":
        return (data[at : at + 100_000] for at in range(0, len(data), 100_000))
    if args == "random":
        return random.randbytes(500_000)
    if args == "raise":
        raise RuntimeError("no")
    if args == "late":
        return (data if number == 0 else 1 // 0 for number in range(2))
    if args == "text":
        return "text"
    if args == "texts":
        return iter(["text"])
    if args == "nothing":
        return iter([b"begin", None, b"end"])
    if args == "sleep":
        time.sleep(60)
    return memoryview(data)[::-1].tobytes() if args == "reverse" else bytearray(data)


@pytest.fixture(scope="module")
def runtime(start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(convert, kind="bytes", sample_timeout=1.0)


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize(("args", "expected"), [("", DATA), ("chunks", DATA), ("reverse", DATA[::-1])])
def test_an_object_is_transformed_as_a_whole(runtime: Runtime, args: str, expected: bytes, ring: bool) -> None:
    conversation = runtime.run(DATA, args=args, ring=ring)
    assert conversation.output == expected
    assert conversation.hello.content_type == "application/octet-stream"
    assert (conversation.stats.bytes_in, conversation.stats.bytes_out) == (len(DATA), len(DATA))
    assert not any(checkpoint.whole for _, checkpoint in conversation.checkpoints)


def test_what_is_made_again_for_a_lost_worker_is_the_same(runtime: Runtime) -> None:
    assert runtime.run(DATA, args="random").output == runtime.run(DATA, args="random").output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("raise", "RuntimeError: no (in mem://b/shard.tar)"),
        ("late", "ZeroDivisionError"),
        ("text", "the function returned a str"),
        ("texts", "the function yielded a str"),
        ("nothing", "the function yielded a NoneType"),
        ("sleep", "sample timeout after 1 s"),
    ],
)
def test_a_failing_function_fails_the_object(runtime: Runtime, args: str, message: str) -> None:
    failure = runtime.run(DATA, args=args).failure
    assert failure.code == "sample_failed"
    assert message in failure.message


def test_an_object_that_killed_its_worker_is_not_run_again(runtime: Runtime) -> None:
    assert "killed by SIGSEGV" in runtime.run(DATA, poison={0: "killed by SIGSEGV"}).failure.message
