"""Random generators, sent as fresh ones: their state is no part of a transform.

A generator that is made from the system's entropy has another state in every process, and so had the id. The worker
seeds every generator that the function reaches for each sample, so the state would not be used. What stays is a seed
that somebody gave, where the generator still knows it: `default_rng(42)` and `default_rng(43)` are two transforms,
however much was drawn from them before.
"""

from __future__ import annotations

import random
import sys
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FROM_ENTROPY = 1 << 96
"""numpy's seeds beyond this are taken from the system: it draws 128 bits."""
FROM_ENTROPY_TORCH = 1 << 32
"""torch's default seed is beyond this, and so are those that it takes from the system: it draws 64 bits."""


def reduce_generator(obj: Any, numbers: Iterator[int]) -> Any:
    """Reduce a generator of `random`, numpy or torch to its kind and a seed; NotImplemented for anything else.

    Args:
        obj: Anything.
        numbers: Seeds of those that have none that is known, so that no two draw the same.
    """
    if isinstance(obj, random.Random) and not isinstance(obj, random.SystemRandom):
        return restore_random, (type(obj), next(numbers), _own_attributes(obj))
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        if isinstance(obj, numpy.BitGenerator):
            sequence = getattr(obj, "seed_seq", None)
            known = isinstance(sequence, numpy.SeedSequence) and _is_given(sequence.entropy)
            return type(obj), (sequence if known else next(numbers),)
        if isinstance(obj, numpy.RandomState):
            return type(obj), (obj._bit_generator,)  # noqa: SLF001 - what `RandomState(bit_generator)` made it of
        if isinstance(obj, numpy.SeedSequence):
            return restore_seed_sequence, (type(obj), _plain(obj.entropy, numbers), tuple(obj.spawn_key), obj.pool_size)
    return _reduce_torch(obj, numbers)


def restore_random(kind: type[random.Random], seed: int, attributes: dict[str, Any]) -> random.Random:
    """Undo `reduce_generator` for a `random.Random`, or one derived from it."""
    generator = kind.__new__(kind)
    generator.__dict__.update(attributes)
    random.Random.seed(generator, seed)
    return generator


def restore_seed_sequence(kind: Any, entropy: Any, spawn_key: tuple[int, ...], pool_size: int) -> Any:
    """Undo `reduce_generator` for numpy's SeedSequence."""
    return kind(entropy, spawn_key=spawn_key, pool_size=pool_size)


def restore_torch_generator(kind: Any, device: str, seed: int) -> Any:
    """Undo `reduce_generator` for a torch.Generator."""
    return kind(device=device).manual_seed(seed)


def _own_attributes(obj: random.Random) -> dict[str, Any]:
    return {name: value for name, value in getattr(obj, "__dict__", {}).items() if name != "gauss_next"}


def _is_given(entropy: Any) -> bool:
    """Whether somebody gave this seed, as far as its size tells."""
    values = entropy if isinstance(entropy, (list, tuple)) else (entropy,)
    return all(isinstance(value, Integral) and int(value) < FROM_ENTROPY for value in values)


def _plain(entropy: Any, numbers: Iterator[int]) -> int | list[int]:
    if not _is_given(entropy):
        return next(numbers)
    return [int(value) for value in entropy] if isinstance(entropy, (list, tuple)) else int(entropy)


def _reduce_torch(obj: Any, numbers: Iterator[int]) -> Any:
    torch = sys.modules.get("torch")
    compiled = getattr(getattr(torch, "_C", None), "Generator", None)
    if compiled is None or not isinstance(obj, compiled):
        return NotImplemented
    seed = obj.initial_seed()
    return restore_torch_generator, (compiled, str(obj.device), seed if seed < FROM_ENTROPY_TORCH else next(numbers))
