"""Same request, same bytes: the randomness of a sample is a pure function of what it is.

Every sample gets its own seed from (transform_id, object and its version, seed, epoch, sample index), so a shard can be
continued at any sample by another worker and comes out the same. Seeded are the global generators of `random`, numpy,
torch and OpenCV, generators that outlive a sample (`generators.py`), and the entropy that others are made of
(`entropy.py`). Where user code imports torch only when the first sample calls it, torch is seeded the moment it is
there. Loading a function and its `setup()` are seeded too, by the transform alone: every worker sets up the same.

Costs 10 µs a sample, and 8 for each generator that is found; hence torch's own default generator instead of
`torch.manual_seed` (79 µs).
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from shardgate import wire
from shardgate_runtime import entropy_torch
from shardgate_runtime.entropy import entropy, install, seed_random
from shardgate_runtime.generators import GLOBAL_NUMPY, GLOBAL_RANDOM, generators, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ALWAYS_LOOKED_AT = 4
"""So many samples of a job at its begin are looked at for whether they draw, and after them the 8th, 16th, 32nd, …"""

install()


class Seeds:
    """Of one job.

    Attributes:
        drew: A sample drew random numbers. Not every sample is looked at.
    """

    def __init__(self, job: wire.Job) -> None:
        identity = repr((job.transform_id, job.bucket, job.key, job.etag, job.seed, job.epoch))
        self._prefix = hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=52)
        self._samples = 0
        self._before: list[object] | None = None
        self.drew = False

    def apply(self, index: int) -> None:
        """Seed everything for the sample with this index."""
        if entropy.is_running:  # the sample before failed
            self.finish()
        digest = self._prefix.copy()
        digest.update(index.to_bytes(8, "little"))
        value = digest.digest()
        seed_random(int.from_bytes(value[:8], "little"))
        np.random.seed(int.from_bytes(value[8:12], "little"))  # noqa: NPY002 - the global generator is what user code uses
        late.seed = int.from_bytes(value[12:20], "little") >> 1
        for name, seed in SEEDED.items():
            module = sys.modules.get(name)
            if module is not None:
                seed(module, late.seed)
        generators.seed(value[20:])
        self._before = _states() if self._is_looked_at() else None
        entropy.begin(value[20:])

    def finish(self) -> None:
        """The sample is done: nothing of it may live on in the next one."""
        survivors = entropy.end()
        self.drew |= entropy.was_used
        if self._before is not None:
            self.drew |= self._before != _states()
        if survivors:
            generators.look_again()
        else:
            generators.look_if_imported()

    def _is_looked_at(self) -> bool:
        self._samples += 1
        return not self.drew and (self._samples <= ALWAYS_LOOKED_AT or not self._samples & (self._samples - 1))


@contextmanager
def seeded_by(transform_id: str) -> Iterator[None]:
    """What is done once per process, before the first sample, draws the same in all of them."""
    late.watch()
    seeds = Seeds(wire.Job("", transform_id, "", "", ""))
    seeds.apply(0)
    try:
        yield
    finally:
        entropy.end()


def _states() -> list[object]:
    states: list[object] = [state_of(GLOBAL_RANDOM), state_of(GLOBAL_NUMPY), *generators.states()]
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "default_generator"):
        states.append(state_of(torch.default_generator))
    return states


def _seed_torch(torch: Any, seed: int) -> None:
    if not hasattr(torch, "default_generator"):
        return  # it is being imported, or its import failed
    entropy_torch.install(torch)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _seed_opencv(cv2: Any, seed: int) -> None:
    if hasattr(cv2, "setRNGSeed"):
        cv2.setRNGSeed(seed & 0x7FFFFFFF)


SEEDED = {"torch": _seed_torch, "cv2": _seed_opencv}
"""Modules that are seeded if they are there, and as soon as they are."""


class _LateModules(MetaPathFinder):
    """Seeds modules that are imported in the middle of a sample.

    Attributes:
        seed: Of the running sample.
    """

    seed = 0

    def __init__(self) -> None:
        self._awaited: set[str] = set()

    def watch(self) -> None:
        """Wait for them from now on. Idempotent."""
        self._awaited = {name for name in SEEDED if name not in sys.modules}
        if self._awaited and self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        if name not in self._awaited:
            return None
        self._awaited.discard(name)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_seed(module: ModuleType) -> None:
                load(module)
                SEEDED[name](module, self.seed)

            spec.loader.exec_module = load_and_seed  # type: ignore[method-assign]
        return spec


late = _LateModules()
