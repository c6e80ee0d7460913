"""Scopes: what a token is good for, as text and as patterns.

Patterns are where rules leak. So there is one wildcard (`*`: anything, but not across the end of provider or bucket),
no regular expression, and a pattern is compared with the name by which the gateway itself opens the object (canonical
provider, key decoded once), never with what stands in the URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from shardgate.providers import canonical
from shardgate_gateway.errors import BadRequest

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

REMEMBERED = 4096
_PATTERN = "write PROVIDER://BUCKET/*, like gcp://imagenet/*"
_APPLY_PATTERN = "write TRANSFORMS@PROVIDER://BUCKET/*, like resize-0123456789abcdef@gcp://imagenet/*"


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


@lru_cache(maxsize=REMEMBERED)
def parsed_scope(scope: str) -> Scope:
    """As `Scope.parse`, remembered."""
    return Scope.parse(scope)


def exact(resource: str) -> str:
    """A pattern that matches this name alone, also where there is a star in it."""
    return resource.replace("\\", "\\\\").replace("*", "\\*")


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
