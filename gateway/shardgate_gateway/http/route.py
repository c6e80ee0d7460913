"""A route: a pattern of paths, its handlers, and what they need of the caller."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Handler = Callable[..., Awaitable[web.StreamResponse]]
    """Called with the `Call`, and with what the groups of the pattern match, decoded."""

BY_HANDLER = ""
"""No scope is needed as such: the handler asks for one that names the object, or shows what the caller may see."""


@dataclass(frozen=True, slots=True)
class Route:
    """Handlers by method.

    Attributes:
        name: In metrics.
        pattern: Of the raw path, so that a quoted slash in a name never looks like the next segment.
        methods: Handlers; HEAD is GET without a body where nothing else is said.
        needs: Scope of a caller that reads.
        changes: Scope of a caller that does anything but GET and HEAD.
        public: Answered without a token, also when the gateway is full.
    """

    name: str
    pattern: re.Pattern[str]
    methods: dict[str, Handler]
    needs: str
    changes: str
    public: bool = False


def route(
    name: str, pattern: str, *, needs: str, changes: str | None = None, public: bool = False, **methods: Handler
) -> Route:
    """Describe a route; `changes` is as `needs` where it is not given."""
    if "GET" in methods:
        methods.setdefault("HEAD", methods["GET"])
    return Route(name, re.compile(pattern), methods, needs, needs if changes is None else changes, public)
