"""Who may ask: whoever has the one bearer token, if there is one."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from aiohttp import hdrs

from shardgate_gateway.errors import Unauthenticated

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy


def is_authenticated(headers: CIMultiDictProxy[str], token: str) -> bool:
    """Compare in a time that does not tell how much of the token was right."""
    if not token:
        return True
    scheme, _, given = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(_bytes(given.strip()), _bytes(token))


def authenticate(headers: CIMultiDictProxy[str], token: str) -> None:
    if not is_authenticated(headers, token):
        said = "the bearer token is wrong" if hdrs.AUTHORIZATION in headers else "no bearer token came with the request"
        raise Unauthenticated(said, hint="send `Authorization: Bearer TOKEN`; clients take it from SHARDGATE_TOKEN")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
