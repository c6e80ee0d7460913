"""Who asks: the bearer token of a request becomes a `Grant`.

What the bearer may do is asked in two places. Each route says what its path needs; where that depends on the object,
the handler asks by the object's own name, `source.label`, once it has found the bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from shardgate_gateway.auth.grant import Grant
    from shardgate_gateway.auth.tokens import Tokens


def authenticate(headers: CIMultiDictProxy[str], tokens: Tokens) -> Grant:
    """What the bearer may do; Unauthenticated where the token is missing or wrong."""
    return tokens.check(bearer(headers))


def bearer(headers: CIMultiDictProxy[str]) -> str | None:
    """The token of `Authorization: Bearer TOKEN`; of any other scheme the whole value, which is no token."""
    given = headers.get(hdrs.AUTHORIZATION)
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else given
