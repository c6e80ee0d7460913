"""Tracebacks that show the user's own line, and not where inside of this package an error was noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardgate.errors import ShardgateError

if TYPE_CHECKING:
    from types import TracebackType


class Concise:
    """A block out of which our errors come without the frames inside it: their message says all there is to know."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ShardgateError):
            error.__traceback__ = None  # Python goes on from here with the frame of the block
            error.__cause__, error.__suppress_context__ = None, True
