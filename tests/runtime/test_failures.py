"""What user code raises is described, whatever its text is."""

from __future__ import annotations

import msgpack
import pytest

from shardgate_runtime.failures import MAX_DESCRIPTION, MAX_TRACEBACK, describe, user_traceback


class NoName(type):
    __name__ = property(lambda cls: 1 / 0)


class Unnameable(Exception, metaclass=NoName):
    def __str__(self) -> str:
        raise SystemExit


class NotText(Exception):
    def __str__(self) -> str:
        return 5  # noqa: PLE0307 (the point of this class)


class ShoutingText(str):
    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        raise RuntimeError("no")


class BadCause(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise SystemExit


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 (for its traceback)
    except BaseException as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Unnameable(), "Unnameable"),
        (NotText(), "NotText"),
        (BadCause("x"), "BadCause"),
        (ValueError(ShoutingText("a" * 9000)), "ValueError: aaa"),
        (ValueError("caf\udce9\x1b[2J"), "ValueError: caf\\udce9\\x1b[2J"),
        (ValueError("x" * 6_000_000), "ValueError: xxx"),
        (KeyError("jpg"), "KeyError: 'jpg'"),
        (ExceptionGroup("g" * 50_000, [ValueError("v" * 50_000)] * 50), "ExceptionGroup: ggg"),
    ],
    ids=["unnameable", "no text", "bad notes", "shouting", "surrogates", "long", "key", "group"],
)
def test_no_text_of_an_exception_breaks_or_fills_its_description(error: BaseException, name: str) -> None:
    error = raised(error)
    text, trace = describe(error), user_traceback(error)
    assert text.startswith(name)
    assert len(text) <= MAX_DESCRIPTION + 300
    assert 0 < len(trace) <= MAX_TRACEBACK
    assert msgpack.unpackb(msgpack.packb([text, trace])) == [text, trace]


def test_a_long_text_does_not_push_the_frames_out_of_the_traceback() -> None:
    trace = user_traceback(raised(ValueError("x" * 6_000_000)))
    assert "in raised" in trace
    assert "ValueError: xxx" in trace


def test_an_assertion_without_text_is_described_by_its_line() -> None:
    with pytest.raises(AssertionError) as caught:
        exec("assert 1 == 2")  # pytest writes texts into the assertions of a test
    assert describe(caught.value) == "AssertionError"
    assert describe(raised(StopIteration())).startswith("StopIteration (raised by `raise error")
