"""Records that programs of different versions exchange: dataclasses as msgpack maps.

Gateways and workers are upgraded at different times, and a worker runs user code, so what comes is decoded tolerantly
and checked strictly. A key that the reader does not know is ignored; one that is missing takes the field's default. A
value that is not of its field's type, a number that is not finite or below zero, and anything that is no map is a
`RecordError`. So a new field needs a default that means what its absence meant before.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from shardgate.text import safe_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

MAX_INT = (1 << 63) - 1
"""The largest integer that databases and other languages take."""
MAX_ENTRIES = 4096
"""Of a map inside a record."""


class RecordError(ValueError):
    """Bytes that are not the expected record."""


def pack_record(record: DataclassInstance) -> bytes:
    """The record as a msgpack map of its fields."""
    return bytes(msgpack.packb(asdict(record)))


def unpack_record(kind: type[T], payload: bytes | bytearray) -> T:
    """A record of this dataclass.

    Raises:
        RecordError: The payload is none.
    """
    try:
        data = msgpack.unpackb(payload, strict_map_key=False)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise RecordError(f"no {kind.__name__}: {safe_line(error, 200)}") from error
    return record_from_map(kind, data)


def record_from_map(kind: type[T], data: object) -> T:
    """A record from a decoded map; RecordError as above."""
    if not isinstance(data, dict):
        raise RecordError(f"a {kind.__name__} is a map, not a {type(data).__name__}")
    values = {}
    for name, read in _readers(kind).items():
        if name in data:
            try:
                values[name] = read(data[name])
            except (RecordError, TypeError) as error:
                raise RecordError(f"{kind.__name__}.{name}: {error}") from None
    try:
        return kind(**values)
    except TypeError as error:
        raise RecordError(f"a {kind.__name__} is not complete: {safe_line(error, 200)}") from error


@cache
def _readers(kind: type[DataclassInstance]) -> Mapping[str, Callable[[Any], Any]]:
    hints = get_type_hints(kind)
    return {f.name: _reader(hints[f.name]) for f in fields(kind)}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """What turns a decoded value into one of this type, or raises RecordError."""
    if get_origin(hint) in {Union, UnionType}:
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        assert len(kinds) == 1, f"{hint} is not X | None"
        read = _reader(kinds[0])
        return lambda value: None if value is None else read(value)
    if get_origin(hint) is dict:
        key, value = map(_reader, get_args(hint))
        return lambda entries: _map(entries, key, value)
    if is_dataclass(hint) and isinstance(hint, type):
        return lambda value: record_from_map(hint, value)
    return _SIMPLE[hint]


def _map(entries: object, key: Callable[[Any], Any], value: Callable[[Any], Any]) -> dict[Any, Any]:
    if not isinstance(entries, dict) or len(entries) > MAX_ENTRIES:
        raise RecordError(f"a map of at most {MAX_ENTRIES} entries is expected")
    return {key(name): value(entry) for name, entry in entries.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise RecordError(f"text is expected, not {safe_line(repr(value), 40)}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise RecordError(f"true or false is expected, not {safe_line(repr(value), 40)}")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INT:
        raise RecordError(f"a whole number from 0 to 2**63 - 1 is expected, not {safe_line(repr(value), 40)}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise RecordError(f"a number is expected, not {safe_line(repr(value), 40)}")
    if not (math.isfinite(value) and 0 <= value <= MAX_INT):
        raise RecordError(f"a finite number from 0 on is expected, not {value!r:.40}")
    return float(value)


_SIMPLE: dict[Any, Callable[[Any], Any]] = {str: _text, bool: _flag, int: _count, float: _number}
