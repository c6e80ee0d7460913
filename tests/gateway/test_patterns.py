"""No text that a stranger sends holds the event loop up: the time of every parser grows as its text does.

A regular expression can take time that grows with the square of its text, or worse. So each pattern of the gateway is
tried, in the ways in which it is used, on texts that are made of its own letters; and each function that reads a
header, a target or a store's answer is tried on 64 KiB. Four times the text may take eight times as long, and no more;
the square would be sixteen. CPU time of this thread is compared, so that a busy machine does not count.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import pkgutil
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

import shardgate_gateway
from shardgate import wire
from shardgate_gateway.errors import GatewayError
from shardgate_gateway.http.auth import bearer
from shardgate_gateway.http.call import request_id
from shardgate_gateway.http.conditions import Version, not_modified, range_applies
from shardgate_gateway.http.head import content_type
from shardgate_gateway.http.ranges import parse_range
from shardgate_gateway.http.request import object_target, parameters
from shardgate_gateway.stores.base import ObjectMeta
from shardgate_gateway.stores.keys import is_key
from shardgate_gateway.stores.translate import OBSTORE, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pattern: TypeAlias = "re.Pattern[str] | re.Pattern[bytes]"
SHORT, FACTOR = 16 << 10, 4
ALLOWED = 2 * FACTOR
SHORT_FOR_PATTERNS = 2 << 10
NOISE_SECONDS = 0.002
"""The square takes far more at these lengths."""
TRIES = 3
ROUNDS = 5
"""Other processes take the caches of the processor; what grows with the square does so in every round."""

VERSION = Version("abc")


def headers(name: str, text: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({name: text}))


def in_lines(name: str, text: str) -> CIMultiDictProxy[str]:
    """As a server takes it: many headers of 8 KiB."""
    return CIMultiDictProxy(CIMultiDict([(name, text[at : at + 8000]) for at in range(0, len(text), 8000)]))


READERS: dict[str, Callable[[str], object]] = {
    "If-None-Match": lambda text: not_modified(headers("If-None-Match", text), VERSION),
    "If-None-Match in lines": lambda text: not_modified(in_lines("If-None-Match", text), VERSION),
    "If-None-Match below the cap": lambda text: not_modified(headers("If-None-Match", text[: len(text) // 4]), VERSION),
    "If-Match": lambda text: not_modified(headers("If-Match", text), VERSION),
    "If-Match below the cap": lambda text: not_modified(headers("If-Match", text[: len(text) // 4]), VERSION),
    "If-Range": lambda text: range_applies(headers("If-Range", text[: len(text) // 4]), VERSION),
    "If-Modified-Since": lambda text: not_modified(headers("If-Modified-Since", text), VERSION),
    "If-Unmodified-Since": lambda text: not_modified(headers("If-Unmodified-Since", text), VERSION),
    "Range": lambda text: parse_range(text, 1000),
    "Range of bytes": lambda text: parse_range(f"bytes={text}", 1000),
    "Authorization": lambda text: bearer(headers("Authorization", text)),
    "X-Request-Id": lambda text: request_id(headers(wire.REQUEST_ID_HEADER, text)),
    "target": lambda text: object_target.__wrapped__(f"/v1/objects/b/{text}"),
    "query": lambda text: object_target.__wrapped__(f"/v1/objects/b/k?provider=file&archpath={text}"),
    "parameters": lambda text: parameters(text, frozenset({"a"})),
    "Content-Type of a store": lambda text: content_type(ObjectMeta("k", 1, "e", content_type=f"a/b{text}")),
    "key": is_key,
    "an error of a store": lambda text: translate(OSError(f"Server: <Code>{text}"), "b/k"),
}
METHODS: dict[str, Callable[[Any, Any], object]] = {
    "match": lambda pattern, text: pattern.match(text),
    "fullmatch": lambda pattern, text: pattern.fullmatch(text),
    "search": lambda pattern, text: pattern.search(text),
    "findall": lambda pattern, text: pattern.findall(text),
    "finditer": lambda pattern, text: list(pattern.finditer(text)),
    "split": lambda pattern, text: pattern.split(text),
    "sub": lambda pattern, text: pattern.sub(text[:0], text),
}
UNITS = [" ", "\t", '"', ",", "a", "0", "%", "%4", "%41", "/", "=", "&", "+", "-", ".", ";", "\\", "\x7f", "\udcff"]
UNITS += ['""', '"",', '"a", ', 'W/"', 'W/"a",', " ,", '" ', "a=&", "0-", "-0,", "bytes=", "Mon, ", ":", "GMT ", "+1 "]
UNITS += ["<Code>", "</Code>", "<Message>", "?", "? ", "a/", "a/b;"]


def seconds(work: Callable[[str], object], text: str) -> float:
    best = float("inf")
    for _ in range(TRIES):
        begun = time.thread_time()
        with contextlib.suppress(GatewayError, ValueError):
            work(text)
        best = min(best, time.thread_time() - begun)
    return best


def assert_grows_as_its_text(work: Callable[[str], object], unit: str, end: str, short_text: int = SHORT) -> None:
    texts = [unit * (size // len(unit)) + end for size in (short_text, FACTOR * short_text)]
    for _ in range(ROUNDS):
        short, long = (seconds(work, text) for text in texts)
        if long <= ALLOWED * short + NOISE_SECONDS:
            return
    raise AssertionError(f"{unit!r}... {end!r}: {short:.6f} s, then {long:.6f} s")


@pytest.mark.parametrize("name", READERS)
def test_reading_hostile_text_takes_no_longer_than_its_length(name: str) -> None:
    for unit in UNITS:
        for end in ("", "\x00", '"'):
            assert_grows_as_its_text(READERS[name], unit, end)


def uses() -> Iterator[tuple[str, Pattern, str]]:
    """All regular expressions of the gateway, and the methods by which they are used."""
    for found in pkgutil.walk_packages(shardgate_gateway.__path__, "shardgate_gateway."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        tree = ast.parse(Path(str(module.__file__)).read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        for call in calls:
            assert isinstance(call.func, ast.Attribute)
            owner, method = ast.unparse(call.func.value), call.func.attr
            value = getattr(module, owner, None)
            first = call.args[0] if call.args else None
            if isinstance(value, re.Pattern):
                yield f"{found.name}.{owner}", value, method
            elif owner == "re" and method in METHODS and isinstance(first, ast.Constant):
                yield f"{found.name}:{call.lineno}", re.compile(first.value), method
    for rule in OBSTORE:
        yield f"rule {rule.text}", re.compile(rule.text), "search"


def letters_of(pattern: str) -> set[str]:
    """Runs of plain letters in a pattern, and each of them: texts made of them get far into it."""
    plain = re.sub(r"\\.|[][(){}|*+?^$]", "\n", pattern)
    runs = {run for run in plain.split("\n") if run}
    return runs | set("".join(runs)) | {run + "a" for run in runs} | {" ", "\t", "a", "0", "/", ".", "\n"}


def assert_linear(name: str, pattern: Pattern, method: str) -> None:
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")

    def work(text: str) -> object:
        given: Any = text if isinstance(pattern.pattern, str) else text.encode("latin-1")
        return METHODS[method](pattern, given)

    for unit in sorted(letters_of(source)):
        try:
            assert_grows_as_its_text(work, unit, "\x00", SHORT_FOR_PATTERNS)
        except AssertionError as error:
            raise AssertionError(f"{name} {source!r}, {method}: {error}") from None


def test_every_pattern_is_linear_as_it_is_used() -> None:
    found = list(uses())
    assert len(found) > 20
    for name, pattern, method in found:
        assert_linear(name, pattern, method)


@pytest.mark.parametrize("pattern", [r"[ \t]*x", r"<a>(.*?)</a>", r"(?:.*/)?[^.]+\.x"])
def test_a_pattern_that_is_not_linear_is_found(pattern: str) -> None:
    with pytest.raises(AssertionError):
        assert_linear("a pattern", re.compile(pattern), "findall")
