"""Whatever a function raises, and whatever its sample is called: one failed sample, one cause, and no lost worker."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from runtime_process import Runtime, members_of

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT, BAD = 4, 2
NAME = "caf\xe9"
KINDS = ["raises", "number", "surrogates", "long", "longer", "broken", "liar", "group", "value", "key"]


def misbehave(sample: dict[str, Any]) -> Any:  # noqa: C901 (a list of misdeeds)
    class Awkward(Exception):
        def __init__(self, text: Any) -> None:
            self.text = text

        def __str__(self) -> Any:
            if callable(self.text):
                return self.text()
            return self.text

    class Liar(Exception):
        @property
        def __class__(self) -> Any:
            raise SystemExit

    def leave() -> None:
        raise SystemExit(3)

    what = sample["do.txt"]
    if what == "raises":
        raise Awkward(leave)
    if what == "number":
        raise Awkward(5)
    if what == "surrogates":
        raise Awkward("caf\udce9 \ud800 \x1b[2J \0")
    if what == "long":
        raise Awkward("x" * 3_000_000)
    if what == "longer":
        raise Awkward("x" * 6_000_000)
    if what == "broken":
        return {"size.txt": str(sample["jpg"].size)}
    if what == "liar":
        raise Liar("lie")
    if what == "group":
        raise ExceptionGroup("g" * 1_000_000, [Awkward(leave), ValueError("v" * 5_000_000)])
    if what == "value":
        return {"cls": Awkward(leave)}
    if what == "key":
        return {"__key__": "caf\ud800" * 1000, "txt": "x"}
    return {"txt": "fine"}


def shard(what: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for number in range(COUNT):
            for suffix, data in (("do.txt", (what if number == BAD else "work").encode()), ("jpg", b"broken")):
                info = tarfile.TarInfo(f"{NAME}_{number}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture(scope="module", params=["fail", "skip", "warn"])
def runtime(request: pytest.FixtureRequest, start_shared: Callable[..., Runtime]) -> Runtime:
    return start_shared(misbehave, on_error=request.param, name=request.param, decoder="pil")


@pytest.mark.parametrize("what", KINDS)
def test_an_awkward_failure_is_told_or_left_out_and_loses_no_worker(runtime: Runtime, what: str) -> None:
    conversation = runtime.run(shard(what))
    assert not conversation.lost
    if runtime.id.startswith("fail"):
        failure = conversation.failure
        assert failure is not None
        assert failure.code == "sample_failed"
        assert failure.sample == BAD
        assert f"sample {BAD}" in failure.message
        assert len(failure.message) < 5000
        assert len(failure.traceback) <= 16 << 10
        return
    assert conversation.failure is None
    names = [name for name, _ in members_of(bytes(conversation.output))]
    assert names == [f"caf\udce9_{number}.txt" for number in range(COUNT) if number != BAD]
