"""What a request asks for, read from the raw path.

Object names may hold anything, also `%`, `/`, `?` and what looks like `..`, so a path is taken apart *before* it is
percent-decoded, and decoded exactly once. Routers and URL classes normalise or decode on their own; they never see it.
A name that clients or proxies would rewrite on the way (`.` and `..` segments), or that no store could hold, is refused
rather than served under another name. A parameter that is not known is refused too: a misspelt `transform_id` must not
silently give the raw object.

A reader may want a file name of its own for a result, since many name what they keep by the path alone. So `tag=T` says
that `.T`, which the last segment has before its ending, is no part of the name (`shardgate.urls`). Only the parameter
says so: an object whose name merely looks like it is found as it always was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from shardgate import wire
from shardgate.providers import canonical
from shardgate.urls import TAG, without_tag
from shardgate.wire.paths import OBJECTS
from shardgate_gateway.errors import BadRequest

MAX_KEY_BYTES = 1024
"""What S3, GCS and Azure allow."""

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"[0-9]{1,18}")
_OBJECT_PARAMETERS = frozenset({"provider", "args", "seed", "epoch", "archpath", TAG, *wire.TRANSFORM_PARAMETERS})


@dataclass(frozen=True, slots=True)
class ObjectTarget:
    """An object, one of its members, or the result of a transform of it.

    Attributes:
        bucket: Name as in the URL.
        key: Object name, decoded.
        provider: Canonical provider, or None where the URL has none.
        transform: Id or name of a transform, or None for the raw object.
        args, seed, epoch: What the transform gets.
        archpath: Name of a tar member, or None for the whole body.
        tagged: The last segment held a tag that is no part of the key.
    """

    bucket: str
    key: str
    provider: str | None = None
    transform: str | None = None
    args: str = ""
    seed: int = 0
    epoch: int = 0
    archpath: str | None = None
    tagged: bool = False

    @property
    def plain(self) -> bool:
        return self.transform is None and self.archpath is None


def split_target(raw: str) -> tuple[str, str]:
    """Path and query of a request target, both still quoted; the absolute form loses its scheme and host."""
    if not raw.startswith("/"):
        _, _, rest = raw.partition("://")
        raw = "/" + rest.partition("/")[2]
    path, _, query = raw.partition("?")
    return path, query


@lru_cache(maxsize=4096)
def object_target(raw: str) -> ObjectTarget:
    """Read `/v1/objects/{bucket}/{key}?...`.

    Raises:
        BadRequest: Some part can't be used.
    """
    path, query = split_target(raw)
    bucket, separator, key = path.removeprefix(OBJECTS).partition("/")
    if not bucket or not separator or not key:
        raise BadRequest(f"{path} names no object", hint=f"objects are {OBJECTS}BUCKET/NAME")
    given = parameters(query, _OBJECT_PARAMETERS)
    named = {given[name] for name in wire.TRANSFORM_PARAMETERS if name in given}
    if len(named) > 1:
        raise BadRequest(f"two transforms in one request: {', '.join(sorted(named))}")
    transform = named.pop() if named else None
    if transform is None and (stray := given.keys() & {"args", "seed", "epoch"}):
        raise BadRequest(f"{', '.join(sorted(stray))} without a transform", hint="add transform_id=")
    return ObjectTarget(
        bucket=decode(bucket),
        key=object_key(_untagged(decode(key), given.get(TAG))),
        provider=provider(given),
        transform=transform,
        args=given.get("args", ""),
        seed=number(given, "seed", 0),
        epoch=number(given, "epoch", 0),
        archpath=given.get("archpath"),
        tagged=TAG in given,
    )


def _untagged(key: str, tag: str | None) -> str:
    if tag is None:
        return key
    name = without_tag(key, tag) if tag else None
    if name is None:
        raise BadRequest(f"the last part of the path does not have .{tag} in it", hint="leave tag= out")
    return name


def object_key(key: str) -> str:
    """Check a decoded object name."""
    hint = "object names are up to 1024 bytes of UTF-8 without control characters and without . or .. between slashes"
    if not key or len(key.encode()) > MAX_KEY_BYTES:
        raise BadRequest(f"the object name has {len(key.encode())} bytes", hint=hint)
    if _CONTROL.search(key) or {".", ".."} & set(key.split("/")):
        raise BadRequest(f"{key!r} can't be an object name", hint=hint)
    return key


def parameters(query: str, known: frozenset[str]) -> dict[str, str]:
    """Decode a query; each parameter at most once, and none that is not known."""
    found: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        quoted, _, value = part.partition("=")
        name = decode(quoted.replace("+", " "))
        if name not in known:
            raise BadRequest(f"unknown parameter {name!r}", hint=f"known are {', '.join(sorted(known))}")
        if name in found:
            raise BadRequest(f"parameter {name!r} is there twice")
        found[name] = decode(value.replace("+", " "))
    return found


def provider(given: dict[str, str]) -> str | None:
    if "provider" not in given:
        return None
    try:
        return canonical(given["provider"])
    except ValueError as error:
        raise BadRequest(str(error)) from error


def number(given: dict[str, str], name: str, default: int) -> int:
    """A parameter that is a non-negative integer below 10**18."""
    text = given.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name}={text!r} is not a non-negative integer")
    return int(text)


def small_number(text: str) -> int | None:
    """A number in a header, None where it is none, or has more than 18 digits."""
    return int(text) if _NUMBER.fullmatch(text) else None


def decode(quoted: str) -> str:
    """Percent-decode once; what is not UTF-8 after that is refused."""
    if not quoted.isascii() or _BROKEN_ESCAPE.search(quoted):
        raise BadRequest(f"{quoted!r} is not percent-encoded UTF-8", hint="quote every byte that is not plain ASCII")
    if "%" not in quoted:
        return quoted
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{quoted!r} is not percent-encoded UTF-8") from error
