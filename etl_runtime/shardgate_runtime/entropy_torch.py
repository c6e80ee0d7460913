"""Torch's generators that are made without a seed, which all draw the same numbers otherwise, and `torch.seed()`.

`torch.Generator` is a compiled class, so a subclass takes its place; generators of either class are of both.
"""

from __future__ import annotations

import functools
from typing import Any

from shardgate_runtime.entropy import entropy


def install(torch: Any) -> None:
    """Let torch ask us for entropy. Idempotent."""
    if not hasattr(torch.Generator, "asks"):
        torch.Generator = _generator_class(torch)
        torch.seed = torch.random.seed = _seed_function(torch)


def _generator_class(torch: Any) -> type:
    compiled: Any = torch.Generator

    class Either(type(compiled)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, compiled)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, compiled)

    class Generator(compiled, metaclass=Either):  # type: ignore[misc]
        asks = entropy

        def __new__(cls, *args: Any, **named: Any) -> Any:
            made = super().__new__(cls, *args, **named)
            made._take(entropy.bits(63))
            return made

        def seed(self) -> int:
            return int(super().seed()) if (value := self._take(entropy.bits(63))) is None else value

        def _take(self, value: int | None) -> int | None:
            if value is not None:
                self.manual_seed(value)
                self._made_of = value
            return value

        def __reduce__(self) -> Any:
            return (compiled, *super().__reduce__()[1:])

    Generator.__module__, Generator.__qualname__ = torch.__name__, compiled.__qualname__
    return Generator


def _seed_function(torch: Any) -> Any:
    system = torch.seed

    @functools.wraps(system)
    def seed() -> int:
        value = entropy.bits(63)
        if value is None:
            return int(system())
        torch.manual_seed(value)
        return value

    return seed
