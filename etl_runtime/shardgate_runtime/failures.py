"""What can go wrong while a shard is transformed, and who hears of it.

JobFailed       the shard can't be finished; becomes a FAIL frame
SampleFailed    one sample failed in user code; the transform's error policy decides what follows
SampleTimeout   raised inside user code by the clock; a BaseException, so that `except Exception` does not swallow it
ReaderLeft      the gateway closed the connection; nobody is left to be told
StartupError    the runtime can't begin to work; becomes status.json, exit code and termination log
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from shardgate import wire

MAX_TRACEBACK = 16 << 10
"""Characters of a traceback that are kept: its end, where the cause stands."""

OUR_FOLDER = str(Path(__file__).parent)


class JobFailed(Exception):
    def __init__(self, failure: wire.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass
class SampleFailed(Exception):
    """A sample that can't be transformed.

    Attributes:
        message: Exception type and text, or what is wrong with the function's result.
        hint: What the author of the function can do.
        traceback: Of user code, as text; "" when no user code is to blame.
        code: See `wire.Failure`.
        exhausted: Memory ran out.
    """

    message: str
    hint: str = ""
    traceback: str = ""
    code: str = "sample_failed"
    exhausted: bool = False

    def __str__(self) -> str:
        return self.message


class SampleTimeout(BaseException):
    pass


class ReaderLeft(Exception):
    pass


class StartupError(Exception):
    """Attributes: transient: The same start may succeed later."""

    def __init__(self, message: str, hint: str = "", *, transient: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.transient = transient


def input_invalid(message: str) -> JobFailed:
    hint = "the raw object is not a whole, well-formed tar; check it with `tar -tf`"
    return JobFailed(wire.Failure(code="input_invalid", message=message, hint=hint))


def input_unavailable(message: str) -> JobFailed:
    return JobFailed(
        wire.Failure(code="input_unavailable", message=message, hint="reading the raw shard again may help")
    )


def describe(error: BaseException) -> str:
    """One line: type and text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def user_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not ours."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OUR_FOLDER):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))[-MAX_TRACEBACK:]
