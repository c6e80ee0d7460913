"""The objects that the words of a command line stand for, and the files that they go to.

`PROVIDER://BUCKET/NAME` names objects by braces and wildcards, as a shell names files: braces first, and a pattern that
no object matches is an error. A backslash makes a character literal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shardgate import braces, globs
from shardgate.errors import InvalidName, NotFound
from shardgate.urls import Bucket, ObjectName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardgate.client import Client, ObjectInfo

STDIO = "-"


def is_object(word: str) -> bool:
    """Whether a word is meant as an object, not as a file."""
    return "://" in word


def is_pattern(key: str) -> bool:
    """Whether a key may stand for several."""
    return globs.MAGIC.search(key) is not None


def one_object(word: str) -> ObjectName:
    """Read the name of one object, taken literally.

    Raises:
        InvalidName: It is none, or a bucket's.
    """
    name = ObjectName.parse(word)
    if not name.key:
        raise InvalidName(
            f"{name.bucket} is a bucket, and this needs an object: name one, like {name.bucket}/NAME",
            hint=f"`shardgate ls {name.bucket}` lists them",
        )
    return name


def objects_of(client: Client, words: Iterable[str]) -> list[ObjectName]:
    """All objects that words name, each once, in order.

    Raises:
        InvalidName: As `one_object`.
        NotFound: No object matches a pattern.
    """
    found: dict[ObjectName, None] = {}
    for word in words:
        bucket, key = one_object(word)
        if not is_pattern(key):
            found[ObjectName(bucket, key)] = None
            continue
        for pattern in map(globs.parse, braces.expand(key, keep_escapes=True)):
            if pattern.regex is None:
                found[ObjectName(bucket, pattern.prefix)] = None
            else:
                names = [info.name for info in _listed(client, bucket, pattern)]
                found.update(dict.fromkeys(ObjectName(bucket, name) for name in names))
                if not names:
                    raise NotFound(f"no object of {bucket} matches {key}", hint=f"`shardgate ls {bucket}` lists them")
    return list(found)


def listing(client: Client, bucket: Bucket, key: str) -> Iterator[ObjectInfo]:
    """Objects whose names begin with `key`, or match it if it has braces or wildcards."""
    if not is_pattern(key):
        yield from client.list(bucket, key)
        return
    for pattern in map(globs.parse, braces.expand(key, keep_escapes=True)):
        yield from _listed(client, bucket, pattern)


def _listed(client: Client, bucket: Bucket, pattern: globs.Pattern) -> Iterator[ObjectInfo]:
    for info in client.list(bucket, pattern.prefix):
        if info.name == pattern.prefix if pattern.regex is None else pattern.regex.fullmatch(info.name):
            yield info


def files_for(names: Sequence[str], destination: str | None) -> list[Path]:
    """Where each of these goes, by the rule of cp: a folder that exists, or one file for one name.

    Args:
        names: Keys of objects; the last part of one is the file's name in a folder.
        destination: File or folder; this folder by default.

    Raises:
        BadParameter: Several go to what is no folder, or two would be one file.
    """
    folder = Path(destination or ".")
    if not folder.is_dir():
        if len(names) > 1 or (destination or "").endswith("/"):
            raise typer.BadParameter(f"{destination} is not a folder, and {len(names)} objects need one")
        return [folder]
    return [folder / name for name in last_parts(names)]


def last_parts(names: Sequence[str]) -> list[str]:
    """The last parts of paths or keys.

    Raises:
        BadParameter: One has none, or two have the same.
    """
    parts: dict[str, str] = {}
    for name in names:
        part = name.rpartition("/")[2]
        if part in {"", ".", ".."}:
            raise typer.BadParameter(f"{name} has no last part to name it by; say where it goes")
        if part in parts:
            raise typer.BadParameter(f"{parts[part]} and {name} would both be {part}")
        parts[part] = name
    return list(parts)
