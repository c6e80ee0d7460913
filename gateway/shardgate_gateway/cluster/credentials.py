"""How gateways know each other: short-lived tokens of scope `peer`, signed with the key that they share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shardgate_gateway.auth.scopes import PEER
from shardgate_gateway.errors import Unauthenticated

if TYPE_CHECKING:
    from shardgate_gateway.auth.tokens import Tokens

VALID_SECONDS = 600.0


class Credentials:
    """What this gateway shows to the others, and how it knows theirs.

    Args:
        tokens: Signs and checks.
        name: Of this gateway.
    """

    def __init__(self, tokens: Tokens, name: str) -> None:
        self._tokens = tokens
        self._name = name
        self._token = ""
        self._renew_at = 0.0

    def token(self) -> str:
        now = time.monotonic()
        if now >= self._renew_at:
            self._token = self._tokens.mint(self._name, {PEER}, seconds=VALID_SECONDS)
            self._renew_at = now + VALID_SECONDS / 2
        return self._token

    def bearer(self) -> tuple[str, str]:
        """The header of a request that this gateway makes for itself."""
        return "Authorization", f"Bearer {self.token()}"

    def token_for(self, scope: str, seconds: float) -> str:
        """A token that this gateway makes for one thing it is about to do elsewhere."""
        return self._tokens.mint(self._name, {scope}, seconds=seconds)

    def are_valid(self, token: str | None) -> bool:
        try:
            return token is not None and self._tokens.check(token).allows(PEER)
        except Unauthenticated:
            return False
