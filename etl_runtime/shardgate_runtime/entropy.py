"""Entropy that user code asks for while a sample runs: it follows from the sample's seed.

A generator that is made without a seed (`numpy.random.default_rng()`, `RandomState()`, `random.Random()`) asks the
system for entropy. Each library does so at one place, and there it gets numbers of ours while a sample runs, and the
system's at any other time. They depend on the line of code that asks and on how often it has asked in this sample, and
on nothing else: a library that asks once per process, for itself, shifts nobody's numbers.

Not replaced are `os.urandom`, `secrets` and `random.SystemRandom`: they are for keys, and a key must not be computable.

A generator that outlives its sample would carry its state into the next. Every number given out is a new `int`, and a
generator keeps the one that it is made of; so one that is still referred to after the sample tells of a survivor.
"""

from __future__ import annotations

import functools
import hashlib
import random
import sys
import uuid
from typing import TYPE_CHECKING, Any

import numpy.random.bit_generator as numpy_entropy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

MAKERS = frozenset({"random", "uuid", __name__, "shardgate_runtime.entropy_torch"})
"""Modules whose lines ask on behalf of their callers."""
EXEMPT = frozenset({"tempfile"})
"""Names of temporary files must not be guessed, and must differ between processes."""
MAX_GIVEN = 10_000
"""Numbers of one sample that are kept, to see whether they outlive it."""


class Entropy:
    """What to answer at the moment.

    Attributes:
        was_used: Somebody asked since `begin`.
    """

    def __init__(self) -> None:
        self._seed = b""
        self._asked: dict[str, int] = {}
        self._given: list[int] = []
        self._unreferenced = _most_references([1 << 200 | id(self)])
        self.was_used = False

    @property
    def is_running(self) -> bool:
        return bool(self._seed)

    def begin(self, seed: bytes) -> None:
        """Answer with numbers that follow from the seed."""
        self._seed = seed
        if self.was_used:
            self._asked.clear()
            self._given.clear()
            self.was_used = False

    def end(self) -> bool:
        """Leave the answers to the system again; True if a generator that was made meanwhile is still there."""
        self._seed = b""
        return bool(self._given) and _most_references(self._given) > self._unreferenced

    def bits(self, count: int) -> int | None:
        """A number of so many bits; None where the system is to answer.

        The one who asks is the nearest line of code outside of `MAKERS`.
        """
        if not self._seed:
            return None
        frame = sys._getframe(1)  # noqa: SLF001 - the interpreter's own way to ask for the caller
        while frame.f_back is not None and frame.f_globals.get("__name__") in MAKERS:
            frame = frame.f_back
        if frame.f_globals.get("__name__") in EXEMPT:
            return None
        place = _place(frame)
        turn = self._asked[place] = self._asked.get(place, 0) + 1
        size = (count + 7) // 8
        value = int.from_bytes(hashlib.shake_256(self._seed + f"{turn} {place}".encode()).digest(size), "little")
        value >>= size * 8 - count
        self.was_used = True
        if len(self._given) < MAX_GIVEN:
            self._given.append(value)
        return value


def _place(frame: FrameType) -> str:
    """A line of code, by a name that it has in every process."""
    code = frame.f_code
    return f"{frame.f_globals.get('__name__')} {code.co_qualname} {frame.f_lasti}"


def _most_references(numbers: Sequence[int]) -> int:
    return max(map(sys.getrefcount, numbers))


entropy = Entropy()


def install() -> None:
    """Let the libraries ask us. Idempotent."""
    if getattr(random.Random.seed, "asks", None) is not entropy:
        _install_numpy()
        _install_random()
        _install_uuid()


def _install_numpy() -> None:
    """`SeedSequence()`, which all of numpy's generators are seeded with, the old ones too."""
    module: Any = numpy_entropy
    system = module.randbits

    def randbits(count: int) -> int:
        value = entropy.bits(count)
        return system(count) if value is None else value

    module.randbits = randbits


def _install_random() -> None:
    seed = random.Random.seed

    @functools.wraps(seed)
    def seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and (a := entropy.bits(128)) is not None and self is not _GLOBAL:
            self._made_of = a  # type: ignore[attr-defined]
        seed(self, a, version)

    seeded.asks = entropy  # type: ignore[attr-defined]
    random.Random.seed = seeded  # type: ignore[method-assign]
    random.seed = _GLOBAL.seed


_GLOBAL: random.Random = random._inst  # noqa: SLF001
seed_random = _GLOBAL.seed
"""Python's own, of the global generator."""


def _install_uuid() -> None:
    system = uuid.uuid4

    @functools.wraps(system)
    def uuid4() -> uuid.UUID:
        value = entropy.bits(128)
        return system() if value is None else uuid.UUID(int=value, version=4)

    uuid.uuid4 = uuid4
