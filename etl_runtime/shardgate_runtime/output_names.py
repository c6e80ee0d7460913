"""Names of output members: a reader must find the samples that the function returned, no others and no fewer.

A reader cuts a member's name at the first dot of its last part: what stands before is the sample's key, what follows
is the field, in small letters. It passes over names like `__this__`, and members next to each other that have one key
are one sample. So a key such as "img_1.jpg", "" or "cat" for every sample would lose samples without a word.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from shardgate.tar.names import is_meta, split_name
from shardgate.text import safe_line
from shardgate_runtime.failures import SampleFailed

MAX_NAME = 8 << 10
"""Characters of a key, and of a field: both together fit in the longest name that is read (`tar.scanner.MAX_NAME`)."""
MAX_REMEMBERED = 256
"""Fields of a sample whose names are remembered as good ones, for the samples that have the same."""
RECENT = 1 << 16
"""Keys that are looked up in a set before they are sorted away: a set takes ten times their size."""


def check_names(sample: dict[str, Any]) -> None:
    """Raises `SampleFailed` unless the members of a sample read back under its key and as its fields."""
    key = sample["__key__"]
    if not _is_plain(key):
        _check_key(key)
    find = _problem_of if len(sample) <= MAX_REMEMBERED else _problem_of.__wrapped__
    problem = find(tuple(sample), key if key[:2] == "__" else "")
    if problem:
        raise SampleFailed(*problem)


@lru_cache(maxsize=1024)
def _problem_of(names: tuple[str, ...], key: str) -> tuple[str, str] | None:
    """What is wrong with the fields of a sample, and a hint; the `key` counts where it begins with two underscores."""
    written = [name for name in names if name[:1] != "_"]
    for field in written:
        if not _is_field(field) or (key and is_meta(f"{key}.{field}")):
            return (
                f"the function returned a sample with the field {_shown(field)}, which does not read back",
                "fields are file extensions like 'jpg' or 'left.jpg', without slashes",
            )
    if len({field.lower() for field in written}) != len(written):
        return (
            f"the function returned a sample with two fields that differ only in capitals: {_shown(written)}",
            "readers see field names in small letters",
        )
    return None


def _is_plain(key: str) -> bool:
    """Whether a look suffices, as it does for most keys."""
    if "." in key or "\0" in key or "__" in key or key[-1:] == "/":
        return False
    return key.isascii() and 0 < len(key) < MAX_NAME


def _check_key(key: str) -> None:
    parts = split_name(f"{key}.x")
    if parts and parts[0] == key and not is_meta(f"{key}.x") and "\0" not in key and _survives(key):
        if len(key) < MAX_NAME:
            return
        problem = f"is longer than {MAX_NAME} characters"
    elif parts and parts[0] != key:
        problem = f"reads back as {_shown(parts[0])}, for a key ends at the first dot"
    else:
        problem = "does not read back"
    raise SampleFailed(
        f"the function returned a sample with the __key__ {_shown(key)}, which {problem}",
        "a key is a path whose last part is not empty and has no dots, such as name.replace('.', '_')",
    )


def _is_field(field: str) -> bool:
    return "/" not in field and "\0" not in field and _survives(field) and len(field) < MAX_NAME


def _survives(name: str) -> bool:
    """Whether a name is the same after it was bytes; lone surrogates stand for bytes that are not UTF-8."""
    try:
        return name.isascii() or name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name
    except UnicodeEncodeError:
        return False


def _shown(name: object) -> str:
    return safe_line(repr(name), 200)


class Keys:
    """The keys that a job has written, 8 bytes each (their hashes)."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.int64)

    def add(self, key: str) -> bool:
        """Remember a key; False if it was there already."""
        digest = hash(key)
        if digest in self._recent:
            return False
        at = int(np.searchsorted(self._sorted, digest)) if self._sorted.size else 0
        if at < self._sorted.size and self._sorted[at] == digest:
            return False
        self._recent.add(digest)
        if len(self._recent) >= RECENT:
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.int64)]))
            self._recent.clear()
        return True
