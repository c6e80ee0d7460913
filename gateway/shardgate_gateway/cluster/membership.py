"""Who the gateways are: names that outlive restarts, and where each is reached.

A membership only says who is meant to be there. Whether a member answers is found out by whoever talks to it
(`peers.py`), so that a list that is a few seconds old costs a failed connect, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self


class Member(NamedTuple):
    """A gateway: its name is what placement goes by, its URL (`http://host:port`) how the others reach it."""

    name: str
    url: str


def url_of(host: str, port: int) -> str:
    """The URL of a gateway at this address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Membership(ABC):
    """The members as an async context, in which they may change.

    Attributes:
        urls: URL by name.
    """

    def __init__(self) -> None:
        self.urls: Mapping[str, str] = {}
        self._callback: Callable[[], None] | None = None

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have each change of `urls` told."""
        self._callback = callback

    def _set(self, urls: Mapping[str, str]) -> None:
        if urls != self.urls:
            self.urls = urls
            if self._callback is not None:
                self._callback()

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Begin to look; returns when it looked once."""

    @abstractmethod
    async def __aexit__(self, *_: object) -> None:
        """Stop looking."""


class StaticMembership(Membership):
    """A list in the settings."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        super().__init__()
        self.urls = dict(urls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
