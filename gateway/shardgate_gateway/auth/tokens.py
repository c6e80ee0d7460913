"""Tokens: those that are checked, and those that the gateway signs for its own parts.

Every request carries a bearer token, which `Tokens.check` turns into a `Grant`. There are three kinds of tokens:
`serve.token`, which may do everything; those of `auth.tokens_file`, which the operator hands to people; and those that
the gateway signs (JWT, HS256), good for a short time and for one thing. Signed tokens need no storage: any gateway with
the same key can check what another one issued.

What can go wrong, and what is done about it:
- Files are looked at again once a second (`watched_file.py`). A key file may hold several keys, one a line: the first
  signs, all are accepted, so that a key can be changed without a moment in which nothing is valid.
- Tokens are compared by their SHA-256, so the time it takes tells nothing about them.
- Where no token is set at all, everybody may do everything; the settings allow that on loopback only. What may be done
  without a token where there are some is listed scope by scope (`auth.anonymous`); a wrong token is not taken for none.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from typing import TYPE_CHECKING, Any

import jwt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from shardgate_gateway.auth.grant import ANYBODY, Grant
from shardgate_gateway.auth.scopes import ADMIN, METRICS, parsed_scope
from shardgate_gateway.auth.watched_file import WatchedFile, read_keys, read_users
from shardgate_gateway.errors import BadRequest, Unauthenticated
from shardgate_gateway.settings import MIN_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate_gateway.settings import AuthSettings

ALGORITHM = "HS256"
ISSUER = "shardgate"
LEEWAY_SECONDS = 10.0
"""How far the clocks of two gateways may be apart."""
LOOK_SECONDS = 1.0
"""How often the files are looked at."""
REMEMBERED = 4096
_SEND = "send `Authorization: Bearer TOKEN`; clients take it from SHARDGATE_TOKEN"


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
            parsed_scope(scope)
        self._anonymous = Grant("anonymous (no token came)", frozenset(auth.anonymous)) if auth.anonymous else None
        nobody: dict[str, Grant] = {}
        self._users = WatchedFile("auth.tokens_file", auth.tokens_file, read_users, nobody)
        keys: tuple[str, ...] = (auth.signing_key or secrets.token_hex(MIN_KEY_BYTES),)
        self._keys = WatchedFile("auth.signing_key_file", auth.signing_key_file, read_keys, keys)
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
            parsed_scope(scope)
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


class _Claims(BaseModel):
    """What a signed token says. The scopes of another version may be anything, see `_known`."""

    model_config = ConfigDict(frozen=True, strict=True)

    sub: str = Field(min_length=1)
    scopes: list[Any]
    exp: FiniteFloat
    aud: None = None


_NO_TOKEN = (jwt.InvalidTokenError, ValidationError, ValueError, TypeError, OverflowError, RecursionError)
"""Raised for what is no token of ours: also by PyJWT's look at claims and headers of other types than it expects."""


def _known(scope: object) -> bool:
    """A gateway of another version may have signed scopes that mean nothing here."""
    try:
        return isinstance(scope, str) and bool(parsed_scope(scope))
    except BadRequest:
        return False


def _seal(key: str, text: str, about: str) -> str:
    return hmac.digest(key.encode(), f"seal\0{text}\0{about}".encode(errors="replace"), "sha256").hex()[:32]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
