"""What a process counts of its cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What this process did since it started."""

    hits: int = 0
    misses: int = 0
    joined: int = 0
    """Opens that were served from a fetch that was under way."""
    bypasses: int = 0
    """Opens that were served straight from the store."""
    revalidations: int = 0
    fills: int = 0
    """Fetches begun, and taken over from a process that died."""
    takeovers: int = 0
    published: int = 0
    failures: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    corrupt: int = 0
    """Entries that did not match their checksums."""
