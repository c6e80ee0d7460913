"""Files with secrets, which may change while the gateway runs.

Secrets are changed by changing their file. A file that can't be read any more leaves the last good values in place: a
typo must not lock everybody out.
"""

from __future__ import annotations

import json
import logging
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shardgate_gateway.auth.grant import Grant
from shardgate_gateway.auth.scopes import parsed_scope
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.settings import MIN_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """A file's content, read again when the file changes; without a path, `value` for good."""

    def __init__(self, setting: str, path: str, read: Callable[[str], T], value: T) -> None:
        self._name = f"{setting} {path}"
        self._path = Path(path).expanduser() if path else None
        self._read = read
        self._seen: tuple[int, ...] | None = None
        self._complained = False
        self.value = value
        if self._path is not None:
            try:
                self._load(self._path)
            except (OSError, ValueError, BadRequest) as error:
                raise BadRequest(f"{self._name}: {_reason(error)}", hint="docs/http.md says what is in it") from None

    def changed(self) -> bool:
        """Look at the file, and read it if it is another one now."""
        if self._path is None:
            return False
        try:
            changed = self._load(self._path)
        except (OSError, ValueError, BadRequest) as error:
            if not self._complained:
                log.error("%s: %s; what it said before still holds", self._name, _reason(error))  # noqa: TRY400 (a traceback may show tokens)
            self._complained = True
            return False
        self._complained = False
        return changed

    def _load(self, path: Path) -> bool:
        stat = path.stat()
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return False
        self.value = self._read(path.read_text())
        self._seen = seen
        return True


class _User(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    token: str = Field(min_length=16, description="Shorter ones can be guessed.")
    scopes: tuple[str, ...]


class _Users(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[_User, ...]


def read_users(text: str) -> dict[str, Grant]:
    """Of `auth.tokens_file`, JSON or TOML: what each token may do."""
    users = _Users.model_validate(json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)).tokens
    for user in users:
        for scope in user.scopes:
            parsed_scope(scope)
    return {user.token: Grant(user.name, frozenset(user.scopes)) for user in users}


def read_keys(text: str) -> tuple[str, ...]:
    """Of `auth.signing_key_file`, one a line."""
    keys = tuple(filter(None, map(str.strip, text.splitlines())))
    if not keys or any(len(key.encode()) < MIN_KEY_BYTES for key in keys):
        raise BadRequest(f"it needs keys of {MIN_KEY_BYTES} bytes or more, one a line, as `openssl rand -hex 32` makes")
    return keys


def _reason(error: Exception) -> str:
    """What is wrong, without the tokens that pydantic would show."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
