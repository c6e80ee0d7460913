"""What a runtime says of itself in status.json, checked: user code can write that file, too."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from shardgate.text import safe_text

MAX_STATUS_BYTES = 256 << 10
MAX_MESSAGE = 64 << 10
"""Characters: a message holds a traceback of at most 16 KiB."""
HOST = "127.0.0.1"
"""The only one that a runtime of this machine listens on."""

Text = Annotated[str, AfterValidator(lambda text: safe_text(text, MAX_MESSAGE))]


def _of_this_machine(listen: str) -> str:
    """Let nothing through that would have the gateway connect elsewhere."""
    scheme, _, where = listen.partition(":")
    host, _, port = where.rpartition(":")
    if scheme == "tcp" and not (host == HOST and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError("no runtime listens there")
    return listen


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """Contents of status.json.

    Attributes:
        state: What it does; "damaged" where the file could not be read.
        since: Seconds since 1970.
        listen: An address like "tcp:127.0.0.1:40000".
    """

    state: Literal["starting", "ready", "failed", "stopped", "damaged"]
    pid: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    message: Text = ""
    hint: Text = ""
    since: Annotated[float, Field(ge=0, lt=1 << 33, allow_inf_nan=False)] = 0.0
    listen: Annotated[str, Field(max_length=4096), AfterValidator(_of_this_machine)] = ""

    @classmethod
    def parse(cls, data: bytes) -> RuntimeStatus:
        """Raises ValueError: No runtime wrote that."""
        if len(data) > MAX_STATUS_BYTES:
            raise ValueError("it is too long")
        try:
            return _ADAPTER.validate_json(data, strict=True)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from None

    @classmethod
    def damaged(cls, error: Exception) -> Self:
        hint = "its function writes into its run folder; the next request starts it anew"
        return cls("damaged", message=safe_text(f"status.json of its run folder is damaged: {error}"), hint=hint)

    @classmethod
    def now(cls, state: Literal["failed", "stopped"], message: str, hint: str) -> Self:
        return cls(state, message=safe_text(message, MAX_MESSAGE), hint=safe_text(hint, MAX_MESSAGE), since=time.time())

    @property
    def address(self) -> str:
        """Host and port, or "" of a runtime that listens on its socket."""
        return self.listen.removeprefix("tcp:") if self.listen.startswith("tcp:") else ""

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


_ADAPTER = TypeAdapter(RuntimeStatus)
