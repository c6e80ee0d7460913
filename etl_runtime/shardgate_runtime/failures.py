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
from shardgate.text import safe_line, safe_text

MAX_TRACEBACK = 16 << 10
"""Characters of a traceback that are kept: its end, where the cause stands."""

MAX_DESCRIPTION = 2048
"""Characters of an exception's text in a message, which has to hold the names of sample and shard, too."""
MAX_TYPE_NAME = 200
_name_of = type.__dict__["__name__"].__get__

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
        passing: The cause may pass, like a lack of time: another run may well succeed.
        place: Where in user code it was raised, for people.
    """

    message: str
    hint: str = ""
    traceback: str = ""
    code: str = "sample_failed"
    exhausted: bool = False
    passing: bool = False
    place: str = ""

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


def input_invalid(message: str, hint: str) -> JobFailed:
    return JobFailed(wire.Failure(code="input_invalid", message=message, hint=hint))


def input_unavailable(message: str) -> JobFailed:
    return JobFailed(
        wire.Failure(code="input_unavailable", message=message, hint="reading the raw shard again may help")
    )


def describe(error: BaseException) -> str:
    """Type and text; where it has no text, as a bare `assert` has none, the line of code that raised it."""
    name = type_name(error)
    if text := safe_text(error, MAX_DESCRIPTION):
        return f"{name}: {text}"
    try:
        line = traceback.extract_tb(error.__traceback__)[-1].line
    except Exception:  # noqa: BLE001 (no traceback, or a source file that can't be read)
        line = ""
    return f"{name} (raised by `{safe_line(line, 200)}`)" if line else name


def type_name(value: object) -> str:
    """The name of a value's type; a metaclass may answer `__name__` in its own way, so it is not asked."""
    return safe_line(_name_of(type(value)), MAX_TYPE_NAME)


def user_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not ours; its end, and of a long text the beginning."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OUR_FOLDER):
        frames = frames.tb_next
    try:
        parts = traceback.format_exception(type(error), error, frames)
    except BaseException:  # noqa: BLE001 (user code again: properties and iterators of an exception)
        parts = [*traceback.format_tb(frames), describe(error)]
    text = "".join(safe_text(part.rstrip("\n")) + "\n" for part in parts)
    return text[-MAX_TRACEBACK:]
