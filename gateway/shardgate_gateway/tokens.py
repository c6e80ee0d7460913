"""Who asks, and what they may do.

Every request carries a bearer token, which `Tokens.check` turns into a `Grant`: a subject and its scopes. There are
three kinds of tokens: `serve.token`, which may do everything; those of `auth.tokens_file`, which the operator hands to
people; and those that the gateway signs (JWT, HS256) for its own parts, good for a short time and for one thing. Signed
tokens need no storage: any gateway with the same key can check what another one issued.

What can go wrong, and what is done about it:
- Scopes hold patterns, and patterns are where rules leak. There is one wildcard (`*`: anything, but not across the end
  of provider or bucket), no regular expression, and a pattern is compared with the name by which the gateway itself
  opens the object (canonical provider, key decoded once), never with what stands in the URL.
- Secrets are changed by changing their file, so files are looked at again once a second. A file that can't be read any
  more leaves the last good tokens in place: a typo must not lock everybody out. A key file may hold several keys, one a
  line: the first signs, all are accepted, so that a key can be changed without a moment in which nothing is valid.
- Tokens are compared by their SHA-256, so the time it takes tells nothing about them.
- Where no token is set at all, everybody may do everything; the settings allow that on loopback only. What may be done
  without a token where there are some is listed scope by scope (`auth.anonymous`); a wrong token is not taken for none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import secrets
import time
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jwt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from shardgate.providers import canonical
from shardgate_gateway.errors import BadRequest, Forbidden, Unauthenticated
from shardgate_gateway.settings import MIN_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardgate_gateway.settings import AuthSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

ADMIN = "admin"
PEER = "peer"
USE = "transforms:use"
REGISTER = "transforms:register"
READ = "read"
WRITE = "write"
APPLY = "apply"
PACKAGE = "package"
ENVIRONMENT = "environment"
METRICS = "metrics"
FLAGS = frozenset({ADMIN, PEER, USE, REGISTER, METRICS})
"""Scopes that stand alone."""
RESOURCES = frozenset({READ, WRITE, APPLY, PACKAGE, ENVIRONMENT})
"""Scopes that name what they are for: `read:gcp://bucket/*`, `package:train-0123456789abcdef`."""
OBJECTS = frozenset({READ, WRITE, APPLY})
"""Scopes for objects. `apply:TRANSFORMS@OBJECT` is for what these transforms make of the object, not for the object."""

ALGORITHM = "HS256"
ISSUER = "shardgate"
LEEWAY_SECONDS = 10.0
"""How far the clocks of two gateways may be apart."""
LOOK_SECONDS = 1.0
"""How often the files are looked at."""
REMEMBERED = 4096
DECISIONS = 16384
_PATTERN = "write PROVIDER://BUCKET/*, like gcp://imagenet/*"
_APPLY_PATTERN = "write TRANSFORMS@PROVIDER://BUCKET/*, like resize-0123456789abcdef@gcp://imagenet/*"
_SEND = "send `Authorization: Bearer TOKEN`; clients take it from SHARDGATE_TOKEN"


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, as the literals between its stars."""

    literals: tuple[str, ...]

    @classmethod
    def parse(cls, pattern: str) -> Glob:
        found = [""]
        characters = iter(pattern)
        for character in characters:
            if character == "*":
                found.append("")
            else:
                found[-1] += next(characters, "\\") if character == "\\" else character
        return cls(tuple(found))

    def matches(self, name: str) -> bool:
        first, *rest = self.literals
        if not rest:
            return name == first
        *middle, last = rest
        at, end = len(first), len(name) - len(last)
        if end < at or not (name.startswith(first) and name.endswith(last)):
            return False
        for literal in middle:
            at = name.find(literal, at, end)
            if at < 0:
                return False
            at += len(literal)
        return True

    def matches_below(self, prefix: str) -> bool:
        """Whether it matches anything that begins with `prefix`."""
        first, *rest = self.literals
        return first.startswith(prefix) or (bool(rest) and prefix.startswith(first))


@dataclass(frozen=True, slots=True)
class Scope:
    """A parsed scope: an action, and what it is for: a glob, or for objects one each for provider, bucket and key."""

    action: str
    globs: tuple[Glob, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Scope:
        r"""Read `admin`, `read:PATTERN` and so on. In a pattern `*` matches anything, `\*` a star and `\\` a backslash.

        Raises:
            BadRequest: There is no such scope.
        """
        if text in FLAGS:
            return cls(text)
        action, _, pattern = text.partition(":")
        if action not in RESOURCES or not pattern:
            raise BadRequest(
                f"there is no scope {text!r}",
                hint=f"scopes are {', '.join(sorted(FLAGS))}, and NAME:PATTERN with {', '.join(sorted(RESOURCES))}",
            )
        return cls(action, tuple(map(Glob.parse, _patterns_in(text, action, pattern))))

    def matches(self, resource: str) -> bool:
        return all(glob.matches(part) for glob, part in zip(self.globs, self._parts(resource), strict=True))

    def matches_below(self, prefix: str) -> bool:
        """Whether it matches anything that begins with `prefix`, which for objects holds at least `provider://bucket/`."""
        *parts, last = zip(self.globs, self._parts(prefix), strict=True)
        return all(glob.matches(part) for glob, part in parts) and last[0].matches_below(last[1])

    def is_for_bucket(self, bucket: str) -> bool:
        """Whether it may match an object of `provider://bucket`."""
        if self.action not in OBJECTS:
            return False
        *_, provider, name, _ = self.globs
        return all(glob.matches(part) for glob, part in zip((provider, name), _split(bucket), strict=False))

    def _parts(self, resource: str) -> tuple[str, ...]:
        if self.action == APPLY:
            transforms, _, resource = resource.partition("@")
            return (transforms, *_split(resource))
        return _split(resource) if self.action in OBJECTS else (resource,)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one bearer may do.

    Attributes:
        subject: Who it is, for logs and records.
        scopes: As in ARCHITECTURE's table.
    """

    subject: str
    scopes: frozenset[str]

    def allows(self, action: str, resource: str = "") -> bool:
        """Whether a scope covers this action, on this resource where the action has one.

        Args:
            action: One of `FLAGS` or `RESOURCES`.
            resource: `provider://bucket/key` with the canonical provider, for `apply` with the transforms and `@` in
                front of it, or the id of a transform or environment.
        """
        return _covers(self.scopes, action, resource)

    def allows_below(self, action: str, prefix: str) -> bool:
        """Whether there can be a resource beginning with `prefix` that `allows` would let through."""
        return _stands(self.scopes, action) or any(
            scope.matches_below(prefix) for scope in _patterns(self.scopes, action)
        )

    def knows(self, bucket: str) -> bool:
        """Whether it opens anything in `provider://bucket`; from all others that bucket is hidden."""
        return _stands(self.scopes, READ) or any(_parsed(scope).is_for_bucket(bucket) for scope in self.scopes)

    def require(self, action: str, resource: str = "") -> None:
        """Raise Forbidden, naming the scope that is missing, unless `allows`."""
        if not self.allows(action, resource):
            raise self.missing_scope(action, resource)

    def missing_scope(self, action: str, resource: str = "") -> Forbidden:
        scope = f"{action}:{resource}" if resource else action
        return Forbidden(
            f"the token of {self.subject} has no scope {scope}",
            hint="ask the operator of this gateway for a token with that scope, or with a pattern that covers it",
        )


@lru_cache(maxsize=DECISIONS)
def _covers(scopes: frozenset[str], action: str, resource: str) -> bool:
    """Remembered, because the same few tokens read the same objects again and again."""
    return _stands(scopes, action) or any(scope.matches(resource) for scope in _patterns(scopes, action))


def _stands(scopes: frozenset[str], action: str) -> bool:
    """Admins may do everything; peers may read and transform, because they ask for somebody they have checked."""
    return ADMIN in scopes or (action in FLAGS and action in scopes) or (PEER in scopes and action in (READ, USE))


def _patterns(scopes: frozenset[str], action: str) -> Iterable[Scope]:
    return (scope for scope in map(_parsed, scopes) if scope.action == action) if action in RESOURCES else ()


NOBODY = Grant("nobody", frozenset())
ANYBODY = Grant("anybody", frozenset({ADMIN}))
"""Who asks where no token is set."""


class Tokens:
    """Checks and signs tokens.

    Args:
        auth: Files and keys. Without a signing key, what is signed here is valid for this object alone.
        serve_token: The one token that may do everything, or "".

    Raises:
        BadRequest: A file can't be used.
    """

    def __init__(self, auth: AuthSettings, serve_token: str) -> None:
        self._serve_token = serve_token
        self._metrics_token = auth.metrics_token
        self._open = not (serve_token or auth.tokens_file)
        for scope in auth.anonymous:
            _parsed(scope)
        self._anonymous = Grant("anonymous (no token came)", frozenset(auth.anonymous)) if auth.anonymous else None
        nobody: dict[str, Grant] = {}
        self._users = _Watched("auth.tokens_file", auth.tokens_file, _read_users, nobody)
        keys: tuple[str, ...] = (auth.signing_key or secrets.token_hex(MIN_KEY_BYTES),)
        self._keys = _Watched("auth.signing_key_file", auth.signing_key_file, _read_keys, keys)
        self._static: dict[bytes, Grant] = {}
        self._remembered: dict[str, tuple[Grant, float]] = {}
        self._look = 0.0
        self._refresh()

    def mint(self, subject: str, scopes: Iterable[str], *, seconds: float) -> str:
        """Sign a token.

        Args:
            subject: Who will carry it, for logs.
            scopes: What it is good for; `exact` quotes a name with a star in it.
            seconds: How long.
        """
        now = time.time()
        named = sorted(set(scopes))
        for scope in named:
            _parsed(scope)
        claims = {"iss": ISSUER, "sub": subject, "scopes": named, "iat": int(now), "exp": math.ceil(now + seconds)}
        self._refresh()
        return jwt.encode(claims, self._keys.value[0], ALGORITHM)

    def derived(self, purpose: str) -> str:
        """A key for one purpose, the same in all gateways that share the signing key."""
        self._refresh()
        return hmac.new(self._keys.value[0].encode(), f"derived for {purpose}".encode(), "sha256").hexdigest()

    def prove(self, name: str, url: str, challenge: str) -> str:
        """HMAC of a gateway's name, the address at which it is asked and a challenge, under the shared key.

        The address is part of it, so that an answer which somebody at another address passes on is worth nothing there.
        "" where nobody needs a token, and so perhaps no key is shared.
        """
        if self._open:
            return ""
        self._refresh()
        said = f"member\0{name}\0{url}\0{challenge}"
        return hmac.digest(self._keys.value[0].encode(), said.encode(errors="replace"), "sha256").hex()

    def seal(self, text: str, about: str) -> str:
        """`text` with an HMAC, for somebody to bring back; it is good for nothing but what it is about."""
        self._refresh()
        return f"{text}.{_seal(self._keys.value[0], text, about)}"

    def unseal(self, sealed: str, about: str) -> str | None:
        """What `seal` was given, at any gateway with the same key; None for anything else."""
        text, _, seal = sealed.rpartition(".")
        self._refresh()
        given = seal.encode(errors="replace")
        good = any(hmac.compare_digest(_seal(key, text, about).encode(), given) for key in self._keys.value)
        return text if good else None

    def check(self, bearer: str | None) -> Grant:
        """What the bearer of a token may do.

        Raises:
            Unauthenticated: There is no token, or none of ours, or it has expired.
        """
        if self._open:
            return ANYBODY
        self._refresh()
        if not bearer:
            if self._anonymous:
                return self._anonymous
            raise Unauthenticated("no bearer token came with the request", hint=_SEND)
        grant, until = self._remembered.get(bearer, (None, 0.0))
        if grant is None or time.time() >= until:
            grant, until = self._examine(bearer)
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[bearer] = grant, until
        return grant

    def _examine(self, bearer: str) -> tuple[Grant, float]:
        known = self._static.get(_digest(bearer))
        if known is not None:
            return known, math.inf
        for key in self._keys.value:
            try:
                decoded = jwt.decode(
                    bearer,
                    key,
                    [ALGORITHM],
                    issuer=ISSUER,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iss", "sub", "scopes"]},
                )
                claims = _Claims.model_validate(decoded)
            except jwt.ExpiredSignatureError:
                raise Unauthenticated(
                    "the bearer token has expired", hint="get a new one; the clock of who signed it may also be wrong"
                ) from None
            except _NO_TOKEN:
                continue
            return Grant(claims.sub, frozenset(filter(_known, claims.scopes))), claims.exp + LEEWAY_SECONDS
        raise Unauthenticated("the bearer token is wrong", hint=_SEND)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + LOOK_SECONDS
        users, keys = self._users.changed(), self._keys.changed()
        if users or not self._static:
            self._static = {_digest(token): grant for token, grant in self._users.value.items()}
            if self._metrics_token:
                self._static[_digest(self._metrics_token)] = Grant(METRICS, frozenset({METRICS}))
            if self._serve_token:
                self._static[_digest(self._serve_token)] = Grant(ADMIN, frozenset({ADMIN}))
        if users or keys:
            self._remembered.clear()


def exact(resource: str) -> str:
    """A pattern that matches this name alone, also where there is a star in it."""
    return resource.replace("\\", "\\\\").replace("*", "\\*")


class _Watched(Generic[T]):
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


class _Claims(BaseModel):
    """What a signed token says. The scopes of another version may be anything, see `_known`."""

    model_config = ConfigDict(frozen=True, strict=True)

    sub: str = Field(min_length=1)
    scopes: list[Any]
    exp: FiniteFloat
    aud: None = None


_NO_TOKEN = (jwt.InvalidTokenError, ValidationError, ValueError, TypeError, OverflowError, RecursionError)
"""Raised for what is no token of ours: also by PyJWT's look at claims and headers of other types than it expects."""


class _Users(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[_User, ...]


def _read_users(text: str) -> dict[str, Grant]:
    users = _Users.model_validate(json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)).tokens
    for user in users:
        for scope in user.scopes:
            _parsed(scope)
    return {user.token: Grant(user.name, frozenset(user.scopes)) for user in users}


def _read_keys(text: str) -> tuple[str, ...]:
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


@lru_cache(maxsize=REMEMBERED)
def _parsed(scope: str) -> Scope:
    return Scope.parse(scope)


def _known(scope: object) -> bool:
    """A gateway of another version may have signed scopes that mean nothing here."""
    try:
        return isinstance(scope, str) and bool(_parsed(scope))
    except BadRequest:
        return False


def _split(resource: str) -> tuple[str, str, str]:
    """Provider, bucket and key of `provider://bucket/key`."""
    provider, _, rest = resource.partition("://")
    bucket, _, key = rest.partition("/")
    return provider, bucket, key


def _patterns_in(text: str, action: str, pattern: str) -> tuple[str, ...]:
    """One pattern for each part of what the scope is for."""
    if action == APPLY:
        transforms, _, objects = pattern.partition("@")
        if not transforms or not objects:
            raise BadRequest(f"the scope {text!r} matches no result", hint=_APPLY_PATTERN)
        return (transforms, *_object_patterns(text, objects))
    return _object_patterns(text, pattern) if action in OBJECTS else (pattern,)


def _object_patterns(text: str, pattern: str) -> tuple[str, str, str]:
    """Patterns of provider, bucket and key; the provider in its one spelling."""
    if pattern == "*":
        return "*", "*", "*"
    provider, bucket, key = _split(pattern)
    if not bucket or not key:
        raise BadRequest(f"the scope {text!r} matches no object", hint=_PATTERN)
    try:
        return (provider if provider == "*" else canonical(provider)), bucket, key
    except ValueError as error:
        raise BadRequest(f"the scope {text!r}: {error}", hint=_PATTERN) from None


def _seal(key: str, text: str, about: str) -> str:
    return hmac.digest(key.encode(), f"seal\0{text}\0{about}".encode(errors="replace"), "sha256").hex()[:32]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
