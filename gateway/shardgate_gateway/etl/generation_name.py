"""The generation of a transform, as a name: a digest of what its results depend on beside its package and the request.

`generation.py` says what it is for, and finds out what the workers are like.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardgate_gateway.etl.options import TransformOptions

OPTIONS_VARIABLE = "SHARDGATE_OPTIONS"
"""Environment variable by which a runtime knows the options that it was started with, as `options_digest` has them."""


def options_digest(options: TransformOptions) -> str:
    """Of the options that can change a byte of a result."""
    facts = [options.env, options.image, sorted(options.secrets)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def generation_of(environment: Mapping[str, str], registration: str) -> str:
    """Sixteen hex digits; "" while nobody knows the environment."""
    if not environment:
        return ""
    facts = [dict(environment), registration]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What changed from one environment to the other, for people."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return ", ".join(f"{name} {before.get(name, 'none')} became {after.get(name, 'none')}" for name in names[:5])
