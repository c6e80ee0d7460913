"""Generators that outlive a sample: found, and seeded for every sample.

Those are the ones that a function reaches (`reach.py`) after its `setup()`, and those that it leaves behind in a
sample. Each draws from a stream of its own, which follows from the sample's seed and from the path that leads to it, so
it does not matter what was drawn before, in which worker, or how often. The global ones are left out: `seeds.py` seeds
them.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from shardgate_runtime.reach import globals_of_packages, reachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardgate_runtime.reach import Step

GLOBAL_NUMPY: Any = np.random.mtrand._rand  # noqa: SLF001
GLOBAL_RANDOM: Any = random._inst  # noqa: SLF001
MASK = (1 << 128) - 1
MT19937_BYTES = 625 * 4
"""Its words and its place among them, as numpy lays them out."""

Found = tuple[bytes, Any]
"""The path to a generator, and the generator."""


class Generators:
    """Of one function, or of none yet."""

    def __init__(self) -> None:
        self._root: object = None
        self._reached: list[Found] = []
        self._elsewhere: list[Found] = []
        """In globals of packages."""
        self._modules: set[str] = set()
        self._looks = 0

    def __iter__(self) -> Iterator[Found]:
        yield from self._reached
        yield from self._elsewhere

    def look(self, root: object) -> None:
        """Find the generators that this function reaches."""
        self._root = root
        self._looks = 0
        self._look_everywhere()

    def look_again(self) -> None:
        """Find those that have come since. Packages take long, and are looked through at the 1st, 2nd, 4th, … time."""
        self._looks += 1
        if self._root is None:
            return
        if self._looks & (self._looks - 1):
            self._reached = list(_find(reachable(self._root)))
        else:
            self._look_everywhere()

    def look_if_imported(self) -> None:
        """Look into modules that were imported since, and for what was made of them."""
        if len(sys.modules) != len(self._modules) and self._root is not None:
            imported = sys.modules.keys() - self._modules
            self._modules = set(sys.modules)
            self._reached = list(_find(reachable(self._root)))
            self._elsewhere = self._others([*self._elsewhere, *_find(globals_of_packages(imported))])

    def are_new(self) -> bool:
        """Look everywhere; True if some have come since."""
        known = {id(generator) for _, generator in self}
        self._look_everywhere()
        return any(id(generator) not in known for _, generator in self)

    def _look_everywhere(self) -> None:
        self._modules = set(sys.modules)
        self._reached = list(_find(reachable(self._root)))
        self._elsewhere = self._others(_find(globals_of_packages(self._modules)))

    def _others(self, found: Iterable[Found]) -> list[Found]:
        """Those that are not reached, each once."""
        seen = {id(generator) for _, generator in self._reached}
        others = []
        for place, generator in found:
            if id(generator) not in seen:
                seen.add(id(generator))
                others.append((place, generator))
        return others

    def seed(self, seed: bytes) -> None:
        """Seed all of them."""
        for place, generator in self:
            reseed(generator, int.from_bytes(hashlib.blake2b(place, key=seed, digest_size=32).digest(), "little"))

    def states(self) -> list[object]:
        """To compare."""
        return [state_of(generator) for _, generator in self]


generators = Generators()
"""This process's; a worker has one function."""


def _find(search: Iterable[Step]) -> Iterator[Found]:
    seen = {id(thing) for thing in (GLOBAL_NUMPY, GLOBAL_NUMPY._bit_generator, GLOBAL_RANDOM)}  # noqa: SLF001
    torch: Any = sys.modules.get("torch")
    compiled = getattr(getattr(torch, "_C", None), "Generator", None)
    if compiled is not None:
        seen.add(id(torch.default_generator))
    for path, thing in search:
        generator = _generator(thing, compiled)
        if generator is not None and id(generator) not in seen:
            seen.add(id(generator))
            if _can_be_seeded(generator):
                yield path.encode(errors="surrogatepass"), generator


def _generator(thing: object, compiled: type | None) -> Any:
    """The thing if it can be seeded, or the part of it that can; None if it is no generator."""
    kind = type(thing)
    if issubclass(kind, np.random.Generator):
        return thing.bit_generator  # type: ignore[attr-defined]
    if issubclass(kind, (np.random.BitGenerator, np.random.RandomState)):
        return thing
    if issubclass(kind, random.Random):
        return None if issubclass(kind, random.SystemRandom) else thing
    return thing if compiled is not None and issubclass(kind, compiled) else None


def _can_be_seeded(generator: Any) -> bool:
    """Packages may derive generators of their own, with other rules."""
    try:
        reseed(generator, 1)
    except Exception:  # noqa: BLE001 - whatever such a package raises
        return False
    return True


def reseed(generator: Any, value: int) -> None:
    """Give a generator the state that follows from 256 bits."""
    kind = type(generator)
    if kind is np.random.PCG64:
        _set_pcg64(generator, value)
    elif issubclass(kind, np.random.BitGenerator):
        fresh = kind(np.random.SeedSequence(value))
        generator.__setstate__((fresh.state, fresh.seed_seq))
    elif issubclass(kind, np.random.RandomState):
        _set_random_state(generator, value)
    elif issubclass(kind, random.Random):
        generator.seed(value & MASK)
    else:
        generator.manual_seed(value >> 193)


def _set_pcg64(generator: Any, value: int) -> None:
    """As `default_rng(value)`, in 3 µs instead of 20. The sequence is where `spawn()` gets its children."""
    state = {"state": value & MASK, "inc": value >> 128 | 1}
    whole = {"bit_generator": "PCG64", "state": state, "has_uint32": 0, "uinteger": 0}
    generator.__setstate__((whole, np.random.SeedSequence(value & MASK)))


def _set_random_state(generator: np.random.RandomState, value: int) -> None:
    inner: Any = generator._bit_generator  # noqa: SLF001
    if type(inner) is np.random.MT19937:
        generator.seed(value & 0xFFFFFFFF)
        return
    reseed(inner, value)
    generator.set_state({**generator.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})


def state_of(generator: Any) -> object:
    """The state, as something that `==` compares."""
    if isinstance(generator, np.random.RandomState):
        inner: Any = generator._bit_generator  # noqa: SLF001
        return state_of(inner)
    if isinstance(generator, np.random.MT19937):
        return ctypes.string_at(generator.ctypes.state_address, MT19937_BYTES)  # `state` takes 30 µs
    if isinstance(generator, np.random.BitGenerator):
        return _plain(generator.state)
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state().numpy().tobytes()


def _plain(state: Any) -> object:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state
