"""Functions that turn against the process they run in: nobody gets wrong bytes, and no other worker suffers."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import Runtime, members_of, tar_of

if TYPE_CHECKING:
    from collections.abc import Callable

HELLO = b"hello, world"


def misbehave(sample: dict[str, Any]) -> Any:  # noqa: C901 (a list of misdeeds)
    class Short(bytes):
        def __len__(self) -> int:
            return 3

        def __bytes__(self) -> bytes:
            return b"no"

    class Text(str):
        __slots__ = ()

        def encode(self, *_: Any) -> bytes:
            return Short(b"something else")

    what = sample["do.txt"]
    if what == b"bytes":
        return {"txt": Short(HELLO)}
    if what == b"text":
        return {"txt": Text("hello, world")}
    if what == b"gzip":
        return {"txt.gz": Short(HELLO)}
    if what == b"clocks":
        time.monotonic = time.perf_counter = lambda: "soon"  # type: ignore[assignment, return-value]
    if what == b"frozen":
        time.monotonic = time.perf_counter = lambda: -1e9
    if what == b"pid":
        os.getpid = lambda: 1
    if what == b"output":
        sys.stdout.close()
        sys.stderr = None  # type: ignore[assignment]
    return {"txt": HELLO}


def shard(what: bytes) -> bytes:
    return tar_of((f"{number}.do.txt", what if number == 1 else b"work") for number in range(3))


@pytest.fixture(scope="module")
def runtime(start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(misbehave, sample_timeout=20.0)


@pytest.mark.parametrize("what", ["bytes", "text", "gzip", "clocks", "frozen", "pid"])
def test_classes_and_patches_of_a_function_change_no_byte_and_lose_no_worker(runtime: Runtime, what: str) -> None:
    before = runtime.workers()
    for request in ("first", "second"):
        conversation = runtime.run(shard(what.encode()), request_id=request)
        assert (conversation.lost, conversation.failure) == (False, None)
        members = members_of(bytes(conversation.output))
        assert [name.partition(".")[0] for name, _ in members] == ["0", "1", "2"]
        assert what == "gzip" or [data for _, data in members] == [HELLO] * 3
    assert runtime.workers() == before


def test_a_worker_that_closed_its_output_takes_no_other_worker_with_it(start: Callable[..., Runtime]) -> None:
    runtime = start(misbehave, options={"workers": 2})
    assert runtime.run(shard(b"output")).end
    for pid in runtime.workers():
        others = set(runtime.workers()) - {pid}
        os.kill(pid, signal.SIGTERM)  # as the parent ends them: by a return from their work
        deadline = time.monotonic() + 20
        while pid in runtime.workers() or len(runtime.workers()) < 2:
            assert time.monotonic() < deadline, runtime.status()
            time.sleep(0.01)
        assert others <= set(runtime.workers())
        assert runtime.status()["state"] == "ready"
    assert runtime.run(shard(b"work"), request_id="later").end


def closes_files(sample: dict[str, Any], args: str) -> Any:
    if sample["__key__"] == "1":
        os.closerange(3, 1024)
        if args == "others":  # whose numbers are those of what was closed
            sample["files"] = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]
            del sample["files"]
    return sample


@pytest.mark.parametrize("args", ["", "others"])
def test_a_sample_that_closes_the_files_of_its_worker_is_named(start: Callable[..., Runtime], args: str) -> None:
    runtime = start(closes_files)
    assert runtime.run(shard(b"work"), args=args).lost
    hello = runtime.run(shard(b"work"), args=args).hello
    assert hello is not None
    death = hello.death
    assert death is not None
    assert (death.sample, death.key, death.deterministic) == (1, "1", True)
    assert death.reason == "its code closed file descriptors that belong to the worker"


class ClosesFilesInSetup:
    def setup(self) -> None:
        os.closerange(3, 1024)

    def __call__(self, sample: dict[str, Any]) -> Any:
        return sample


def test_a_setup_that_closes_the_files_of_its_worker_fails_with_the_reason(start: Callable[..., Runtime]) -> None:
    status = start(ClosesFilesInSetup).status()
    assert status["state"] == "failed"
    assert status["message"] == "setup() closed file descriptors that belong to the worker"


def returns_views(data: bytes) -> Any:
    view = memoryview(bytearray(data))
    if data == b"released":
        view.release()
        return view
    return view[::2]


def test_a_view_with_gaps_is_written_without_them(start: Callable[..., Runtime]) -> None:
    runtime = start(returns_views, kind="bytes")
    assert bytes(runtime.run(b"a-b-c-").output) == b"abc"
    failure = runtime.run(b"released", request_id="r2").failure
    assert failure is not None
    assert failure.code == "sample_failed"
    assert "released" in failure.message
