"""What libraries leave in classes and functions, and is other in every process: addresses, hashes, hash order."""

from __future__ import annotations

import gc
import hashlib
import operator
import re
import types
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from shardgate.origins import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ADDRESS = re.compile(r"(?<=\b0x)[0-9a-f]{6,16}\b|(?<=[\w\]>]:)[0-9]{7,20}\b|\b[0-9]{13,20}\b", re.IGNORECASE)
"""As in a repr, as `module.Class:1234` of pydantic, or alone; each is looked up before it is taken for one."""
GENERATED_BY_ATTRS = "<attrs generated "
SMALL = 1 << 32
FAR = 1 << 40
"""Decimal numbers below it are dates and counts more often than addresses, of which only those of classes count."""
PLAIN = (str, bytes, int, float, complex, bool, type(None), PurePath, type)
"""Their repr is the same in every process."""


class Addresses:
    """Numbers in texts that are addresses of living objects, made the same in every process.

    The first that is met becomes 1, the next 2, and so on. That keeps them apart, which is all they are good for.
    """

    def __init__(self) -> None:
        self._living: set[int] | None = None
        self._classes: set[int] = set()
        self._numbers: dict[int, int] = {}

    def anew(self) -> Addresses:
        """The same, with nothing met yet."""
        other = Addresses()
        other._living, other._classes = self._living, self._classes
        return other

    def stable(self, text: str) -> str:
        """The text with a stand-in for each address."""
        return ADDRESS.sub(self._stand_in, text)

    def _stand_in(self, found: re.Match[str]) -> str:
        text = found.group()
        is_hex = found.string[: found.start()].lower().endswith("0x")
        address = int(text, 16 if is_hex else 10)
        if self._living is None:
            self._classes = set(_classes())
            self._living = self._classes | {id(obj) for obj in gc.get_objects()}
        if address not in (self._living if is_hex or address > FAR else self._classes):
            return text
        return str(self._numbers.setdefault(address, len(self._numbers) + 1))


def _classes() -> Iterator[int]:
    """Addresses of all classes; the collector does not know those of C."""
    waiting: list[type] = [object]
    seen: set[int] = set()
    while waiting:
        kind = waiting.pop()
        if id(kind) not in seen:
            seen.add(id(kind))
            yield id(kind)
            waiting.extend(type.__subclasses__(kind))


def without_salt(code: types.CodeType) -> types.CodeType:
    """The same code, without the salted hash of a string that attrs writes into `__hash__`.

    Another number does as well: it only tells classes apart. The columns go too, since they follow from its digits.
    """
    if code.co_name != "__hash__" or not code.co_filename.startswith(GENERATED_BY_ATTRS):
        return code
    name = hashlib.sha256(code.co_filename.encode(errors="surrogatepass")).digest()[:7]
    stand_in = int.from_bytes(name, "big")
    constants = tuple(stand_in if type(value) is int and abs(value) > SMALL else value for value in code.co_consts)
    return code.replace(co_consts=constants, co_linetable=_one_line(len(code.co_code) // 2))


def _one_line(instructions: int) -> bytes:
    """A location table (CPython's Objects/locations.md) that knows one line and no columns."""
    sizes = (min(8, instructions - start) for start in range(0, instructions, 8))
    return b"".join(bytes([0x80 | 13 << 3 | size - 1, 0]) for size in sizes)


def in_order(items: Iterable[Any], digest: Callable[[Any], str]) -> list[Any]:
    """Members of a set, in an order that is the same in every process.

    Args:
        items: The members.
        digest: What stands for a member whose repr is no help: a digest of its pickle.
    """
    return sorted(items, key=lambda item: (type(item).__qualname__, _text(item, digest)))


def items_in_order(items: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Items of a dict, in its order, except those of a table of an installed object's own methods, which go by name.

    Libraries make such tables from sets. Only look-ups use them, so their order means nothing.
    """
    owner = getattr(items[0][1], "__self__", None) if items else None
    if owner is None or is_local(type(owner).__module__):
        return items
    is_table = all(type(k) is str and type(v) is types.MethodType and v.__self__ is owner for k, v in items)
    return sorted(items, key=operator.itemgetter(0)) if is_table else items


def _text(item: Any, digest: Callable[[Any], str]) -> str:
    if isinstance(item, frozenset) and type(item) is frozenset:
        return f"[{', '.join(_text(part, digest) for part in in_order(item, digest))}]"
    if _is_plain(item):
        text = repr(item)
        if "0x" not in text or isinstance(item, (str, bytes)):
            return text
    return digest(item)


def _is_plain(item: Any) -> bool:
    if type(item) is tuple:
        return all(_is_plain(part) for part in item)
    return isinstance(item, (*PLAIN, Enum))
