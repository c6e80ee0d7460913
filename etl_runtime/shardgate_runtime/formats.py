"""What the name of a field says of its format."""

from __future__ import annotations

from functools import lru_cache

from shardgate_runtime.webdataset_parts import IMAGE_EXTENSIONS

PICTURES = frozenset(IMAGE_EXTENSIONS)
"""Extensions that webdataset's image decoder takes."""


@lru_cache(maxsize=1024)
def format_of(field: str) -> tuple[str, bool]:
    """Extension, and whether it is compressed: ("jpg", False) of "left.JPG", ("json", True) of "boxes.json.gz"."""
    name = field.lower()
    return name.removesuffix(".gz").rpartition(".")[2], name.endswith(".gz")
