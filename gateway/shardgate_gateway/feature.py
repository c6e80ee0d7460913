"""What a feature is: what it brings, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from shardgate_gateway.http.route import Route
    from shardgate_gateway.jobs.periodic import Periodic
    from shardgate_gateway.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Mount:
    """What an open feature adds to the gateway.

    Attributes:
        routes: Paths that it answers. A path of the core is never taken from it.
        jobs: What it does in the background.
    """

    routes: Sequence[Route] = ()
    jobs: Sequence[Periodic] = ()


class Feature(Protocol):
    """A feature; each folder of `features/` exports one as `FEATURE`.

    Attributes:
        name: For people.
    """

    name: str

    def open(self, kernel: Kernel) -> AbstractAsyncContextManager[Mount]:
        """Open it for as long as the gateway runs."""
