"""A grant: who asks, and what the scopes of its token let it do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from shardgate_gateway.auth.scopes import ADMIN, FLAGS, PEER, READ, RESOURCES, USE, parsed_scope
from shardgate_gateway.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate_gateway.auth.scopes import Scope

DECISIONS = 16384


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
        return _stands(self.scopes, READ) or any(parsed_scope(scope).is_for_bucket(bucket) for scope in self.scopes)

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
    return (scope for scope in map(parsed_scope, scopes) if scope.action == action) if action in RESOURCES else ()


NOBODY = Grant("nobody", frozenset())
ANYBODY = Grant("anybody", frozenset({ADMIN}))
"""Who asks where no token is set."""
