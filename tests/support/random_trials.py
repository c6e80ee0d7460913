"""What happens in one random read: the function's plan, and what its reader and its workers suffer."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from random_functions import act_of
from shards import random_bytes, tar_of

if TYPE_CHECKING:
    from collections.abc import Iterable

SECONDS = float(os.environ.get("SHARDGATE_READS_SECONDS", "20"))
TRIALS = int(os.environ.get("SHARDGATE_READS_TRIALS", "0"))
GIVEN, _, ONE = os.environ.get("SHARDGATE_READS_SEED", "").partition(":")
SEED = int(GIVEN or 0) or random.SystemRandom().randrange(1, 10**9)
LIMIT = 600 + SECONDS + 5 * TRIALS

RELEASE_SECONDS = 0.04
RING = 1 << 20
BIGGEST = 3_000_000
SHARDS = {f"{count}.tar": count for count in (1, 2, 4, 8, 16)}
OFTEN, SELDOM = ("steady", "steady", "steady"), ("raises", "kills", "sleeps")
MOODS = ("steady", "draws", "grows", "vanishes", "turns", "starves", "dies", "raises", "kills", "sleeps")


def contents(key: str) -> dict[str, bytes]:
    """What the samples of a shard hold, by their keys."""
    count = SHARDS[key]
    return {f"{index:06d}": random_bytes((0, 90, 5_000, 70_000)[index % 4], index) for index in range(count)}


BODIES = {key: tar_of({f"{name}.bin": data for name, data in contents(key).items()}) for key in SHARDS}


@dataclass
class Trial:
    """One read. Positions are bytes of the result.

    Attributes:
        plan: What the function does, without its folder.
        kills, pauses: Where the reader has a worker killed, and where it pauses.
        early: A worker is killed after so many seconds, whatever came until then.
        leaves: Where the reader leaves. returns: it comes back for the rest.
        slow: It sleeps after every chunk.
        weak: The shard has a weak etag. breaks: where its transfer breaks off, behind TCP.
    """

    number: int
    dice: random.Random
    key: str = ""
    on_error: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    kills: list[int] = field(default_factory=list)
    pauses: list[int] = field(default_factory=list)
    early: float | None = None
    leaves: int | None = None
    returns: bool = False
    slow: bool = False
    weak: bool = False
    breaks: int | None = None

    def __post_init__(self) -> None:
        dice = self.dice
        self.key = dice.choice(sorted(SHARDS))
        self.on_error = dice.choice(("fail", "skip"))
        self.plan = {"seed": dice.randrange(1 << 40), "moods": self._moods(), "biggest": BIGGEST}
        size = max(1, sum(sum(act_of(self.plan, name).sizes) for name in contents(self.key)))
        self.kills = self._places(size, (0, 0, 0, 1, 1, 2, 4))
        self.pauses = self._places(size, (0, 0, 0, 0, 1, 3))
        self.early = dice.random() * 0.05 if dice.random() < 0.1 else None
        self.leaves = dice.randrange(size) if dice.random() < 0.2 else None
        self.returns = dice.random() < 0.8
        self.slow = dice.random() < 0.1
        self.weak = dice.random() < 0.2
        self.breaks = dice.randrange(1, len(BODIES[self.key])) if dice.random() < 0.2 else None

    def _moods(self) -> list[str]:
        """Mostly good ones, or nearly every shard would fail; those that take time seldom."""
        dice = self.dice
        kind = dice.random()
        if kind < 0.35:
            return ["steady"]
        if kind < 0.5:
            return ["draws"]
        special = [mood for mood in dice.sample(MOODS, 2) if mood not in SELDOM or dice.random() < 0.1]
        if self.on_error == "fail":
            special = [mood for mood in special if mood != "sleeps"]  # its transform has no limit of time
        return [*OFTEN * dice.choice((1, 5)), *special]

    def _places(self, size: int, counts: tuple[int, ...]) -> list[int]:
        return sorted(self.dice.randrange(size) for _ in range(self.dice.choice(counts)))

    @property
    def is_calm(self) -> bool:
        """Nothing happens that could break it off: pauses, and readers that come back, are no reason to.

        Where samples are left out, they have a limit of time, and a busy machine may exceed it the second time only.
        """
        disturbed = self.kills or self.early is not None or self.breaks is not None
        return self.on_error == "fail" and not disturbed and set(self.plan["moods"]) == {"steady"}


def numbers_of_trials() -> Iterable[int]:
    """For one way of reading."""
    if ONE:
        return [int(ONE)]
    return range(TRIALS) if TRIALS else itertools.count()
