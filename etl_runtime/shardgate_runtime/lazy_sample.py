"""A sample that decodes a field the first time somebody reads it.

A function gets a real dict (a subclass), in whose storage fields that nobody read are `Unread`. Reading one by any way
of Python's (`sample[...]`, `get`, `pop`, `items`, `values`, `==`, `repr`, pickle, `dict(sample)`, `{**sample}`,
`f(**sample)`, `json.dumps`) puts its value in its place. So what is still `Unread` when the function returns was
neither read nor set, and is written with the bytes that came. `sample.copy()`, `copy.deepcopy(sample)` and
`sample | {...}` make samples that are lazy, too; `del` decodes nothing.

C code may look into the storage of a dict without asking its class. CPython's own `dict(...)`, `**` and `dict.update`
do so only for dicts that keep dict's `__iter__`; ours has one of its own, so they go through `keys` and `__getitem__`.
Code that asks for the type of a dict exactly would not take ours for a dict; torch's `pytree`, with which torchvision's
v2 transforms take whole samples, is told of it (`pytree.py`). What is left are the methods of `dict` called unbound
(`dict.items(sample)`) and foreign C code that is as rude: they meet `Unread`, which is written as the bytes that came,
and says what it is where it is printed.
"""

from __future__ import annotations

import copy
from collections.abc import ItemsView, ValuesView
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NOTHING: Any = object()
_lock = Lock()
"""Held while a decoded value is put down: threads of a function that read one field get one object."""

_get = dict.__getitem__
_look = dict.get
_put = dict.__setitem__


class Unread:
    """A field that was not read yet.

    Attributes:
        field: Its name in the sample.
        name: Its extension in the shard, which may have capitals.
        data: Its bytes.
        value: What they were decoded to, where a copy of the sample was read; shared by all copies, as in a dict.
    """

    __slots__ = ("_decode", "data", "field", "name", "value")

    def __init__(self, decode: Callable[[Unread], Any], field: str, name: str, data: bytes) -> None:
        self._decode = decode
        self.field = field
        self.name = name
        self.data = data
        self.value = _NOTHING

    @property
    def is_untouched(self) -> bool:
        """Nobody has, or had, its value."""
        return self.value is _NOTHING

    def read(self, sample: Sample | None = None) -> Any:
        """The value; decoded the first time. It takes its place in the `sample`, where the field has not changed since.

        Raises:
            SampleFailed: The bytes can't be decoded.
        """
        value = self.value
        if value is _NOTHING:
            value = self._decode(self)
        with _lock:
            if self.value is _NOTHING:
                self.value = value
            else:
                value = self.value
            if sample is not None and _look(sample, self.field) is self:
                _put(sample, self.field, value)
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> Unread:
        twin = Unread(self._decode, self.field, self.name, self.data)
        if not self.is_untouched:
            twin.value = copy.deepcopy(self.value, memo)
        return twin

    def __repr__(self) -> str:
        return f"<field {self.field!r} that was not read, {len(self.data)} bytes: take it from the sample by its name>"


class Sample(dict[str, Any]):
    """A sample whose fields are decoded when they are read; see the module's text."""

    __slots__ = ()

    def __getitem__(self, field: str) -> Any:
        value = _get(self, field)
        return value.read(self) if type(value) is Unread else value

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self)  # makes C code ask `__getitem__`; see the module's text

    def get(self, field: str, default: Any = None) -> Any:
        value = _look(self, field, default)
        return value.read(self) if type(value) is Unread else value

    def setdefault(self, field: str, default: Any = None) -> Any:
        value = dict.setdefault(self, field, default)
        return value.read(self) if type(value) is Unread else value

    def pop(self, field: str, *default: Any) -> Any:
        self.get(field)  # a field that can't be decoded stays where it is
        return dict.pop(self, field, *default)

    def popitem(self) -> tuple[str, Any]:
        for field in reversed(self):
            return field, self.pop(field)
        return dict.popitem(self)

    def items(self) -> Items:  # type: ignore[override]
        return Items(self)

    def values(self) -> Values:  # type: ignore[override]
        return Values(self)

    def copy(self) -> Sample:
        return Sample(stored(self))

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Sample:
        twin = memo[id(self)] = Sample()
        for field, value in stored(self).items():
            _put(twin, field, copy.deepcopy(value, memo))
        return twin

    def update(self, /, *others: Any, **fields: Any) -> None:
        dict.update(self, *map(_lazily, others), **fields)

    def __or__(self, other: Any) -> Sample:  # type: ignore[override]
        if not isinstance(other, dict):
            return NotImplemented
        twin = self.copy()
        twin.update(other)
        return twin

    def __ror__(self, other: Any) -> Sample:  # type: ignore[override]
        if not isinstance(other, dict):
            return NotImplemented
        twin = Sample(other)
        twin.update(self)
        return twin

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        return bool(dict(self) == (dict(other) if isinstance(other, Sample) else other))

    def __ne__(self, other: object) -> bool:
        return bool(dict(self) != (dict(other) if isinstance(other, Sample) else other))

    __hash__ = None

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce_ex__(self, _protocol: Any) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # wherever it goes, nobody has to know us there


class Items(ItemsView[str, Any]):
    """The items of a sample; each is decoded when the iteration comes to it."""

    _mapping: Sample

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return ((field, self._mapping[field]) for field in reversed(self._mapping))


class Values(ValuesView[Any]):
    """The values of a sample; each is decoded when the iteration comes to it."""

    _mapping: Sample

    def __reversed__(self) -> Iterator[Any]:
        return (self._mapping[field] for field in reversed(self._mapping))


def stored(sample: dict[str, Any]) -> dict[str, Any]:
    """A plain dict of what is stored, `Unread` included."""
    return dict(dict.items(sample)) if isinstance(sample, Sample) else dict(sample)


def _lazily(other: Any) -> Any:
    return stored(other) if isinstance(other, Sample) else other
