"""Which members are samples: a name is cut at the first dot of its last part into a sample's key and its field.

This is webdataset's rule, in linear time, with one exception. Files whose last part begins with a dot (`._0.jpg` and
`.DS_Store`, which macOS adds) and everything in a folder `__MACOSX` belong to no sample, in folders as well as at the
top; webdataset takes `train/._0.jpg` for the field `_0.jpg` of a sample `train/`.
"""

from __future__ import annotations


def split_name(name: str) -> tuple[str, str] | None:
    """Key and field of a member, None where it belongs to no sample."""
    first = name.rfind("/") + 1
    dot = name.find(".", first)
    return (name[:dot], name[dot + 1 :]) if dot > first else None


def is_meta(name: str) -> bool:
    """Whether a member is about the archive and not for a sample, as `__meta__` and `__info__/a.json` are."""
    if "__" not in name:
        return False
    first = name.partition("/")[0]
    if first.startswith("__") and first[2:].endswith("__"):
        return True
    return "__MACOSX" in name.split("/")[:-1]
