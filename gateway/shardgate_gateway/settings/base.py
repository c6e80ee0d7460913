"""What all groups of settings share: sizes with units, folders, and that a group never changes."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
)

MIB = 1 << 20
GIB = 1 << 30
MIN_KEY_BYTES = 32
"""What HS256 needs."""

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SIZES = {
    unit + byte: factor
    for prefix, decimal, binary in (("", 1, 1), ("k", 1000, 1 << 10), ("m", 10**6, MIB), ("g", 10**9, GIB))
    for unit, factor in ((prefix, decimal), (prefix + "i", binary))
    for byte in ("", "b")
} | {f"t{i}{b}": factor for i, factor in (("", 10**12), ("i", 1 << 40)) for b in ("", "b")}
"""Bytes by unit: `50GB` are 50 * 10**9, `50GiB` (or, as in Kubernetes, `50Gi`) are 50 * 2**30."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", re.ASCII)


def _bytes_of(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value)
    factor = SIZES.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{value!r} is no size; write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return int(Decimal(found[1]) * factor)


Size = Annotated[int, BeforeValidator(_bytes_of, json_schema_input_type=int | str)]
"""Bytes, which may be written with a unit."""


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
