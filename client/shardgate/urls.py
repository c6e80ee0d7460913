"""Objects and their URLs, there and back.

The difficulty is who reads the URL. webdataset first splits it at `::`, then replaces `${…}`, then expands braces, and
hands the rest to `curl`, which expands `[]{}` once more. So every byte of a name except letters, digits and `/_.-~` is
percent-encoded: then no reader sees anything in the URL that it could act upon. Readers also fold `.` and `..`
segments, however they are quoted; such names are refused here, as they are by the gateway.

Many readers name what they keep by the last segment of the path (webdataset's `cache_dir`, wids, `curl -O`), where a
shard and its results under two transforms, or in two epochs, would be one file. So the URL of a result carries a *tag*:
a digest of all that tells it apart, once in the last segment, before its ending, and once in the query, where it tells
the gateway what to take out: `a/s-0.3f9c2e….tar?…&tag=3f9c2e…`. No key has to be reserved for that.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from shardgate import providers
from shardgate.errors import InvalidName
from shardgate.wire.paths import OBJECTS

MAX_KEY_BYTES = 1024
"""What S3, GCS and Azure allow."""
DOTS = frozenset({".", ".."})
TAG = "tag"
"""The parameter that says what in the last segment of the path is no part of the key."""
UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of characters that UTF-8 can't hold."""


class Bucket(NamedTuple):
    """A bucket: canonical provider ("gcp", "aws", "az", "http", "file", "mem") and name."""

    provider: str
    name: str

    def __str__(self) -> str:
        return f"{self.provider}://{self.name}"

    @classmethod
    def parse(cls, bucket: str | Bucket, provider: str | None = None) -> Bucket:
        """Read `"gcp://name"`, or a name with its provider beside it.

        Raises:
            InvalidName: No provider, an unknown one, two that differ, or no proper bucket name.
        """
        if isinstance(bucket, Bucket):
            return bucket
        try:
            own = providers.canonical(provider) if provider else None
            if "://" in bucket:
                bucket = cls(*providers.split_bucket(bucket))
            elif own and bucket and "/" not in bucket:
                bucket = cls(own, bucket)
        except ValueError as error:
            raise InvalidName(str(error)) from error
        if isinstance(bucket, str):
            raise InvalidName(f"bucket {bucket!r} has no provider", hint='write "gcp://name", or pass provider="gcp"')
        if own and own != bucket.provider:
            raise InvalidName(f"bucket {bucket} and provider {provider!r} contradict each other")
        return bucket


class ObjectName(NamedTuple):
    """A bucket and a key (or a prefix of keys, which may be empty)."""

    bucket: Bucket
    key: str

    @classmethod
    def parse(cls, text: str) -> ObjectName:
        """Read `provider://bucket/key`; the key is everything behind the slash, unquoted."""
        scheme, separator, rest = text.partition("://")
        if not separator:
            raise InvalidName(f"{text!r} has no provider", hint="objects are written like gcp://bucket/key")
        name, _, key = rest.partition("/")
        return cls(Bucket.parse(f"{scheme}://{name}"), key)

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


def quote_key(key: str) -> str:
    """Quote an object name for the path of a URL, so that every HTTP reader delivers it as it is.

    Raises:
        InvalidName: The name is one that readers rewrite on the way, or that stores don't take.
    """
    if not key:
        raise InvalidName("an object name is missing", hint="the bucket alone names no object")
    if UNUSABLE.search(key) or not DOTS.isdisjoint(key.split("/")) or len(key.encode()) > MAX_KEY_BYTES:
        hint = "up to 1024 bytes of UTF-8, no control characters, and no . or .. between slashes"
        raise InvalidName(f"{key!r} can't be an object name", hint=hint)
    return quote(key, safe="/")


def object_path(bucket: Bucket, key: str, query: dict[str, str]) -> str:
    """Path and query of an object; `provider` comes first among the query's parameters."""
    parameters = urlencode({"provider": bucket.provider, **query}, quote_via=quote, safe="")
    path = quote_key(key)
    if tag := query.get(TAG):
        path = with_tag(path, quote(tag, safe=""))
    return f"{OBJECTS}{quote(bucket.name, safe='')}/{path}?{parameters}"


def result_path(bucket: Bucket, key: str, query: dict[str, str]) -> str:
    """`object_path` under a name that no other result has; a raw object has its own."""
    if not query:
        return object_path(bucket, key, query)
    told_apart = json.dumps([bucket.provider, bucket.name, key, sorted(query.items())]).encode()
    return object_path(bucket, key, {**query, TAG: hashlib.blake2s(told_apart, digest_size=8).hexdigest()})


def with_tag(name: str, tag: str) -> str:
    """A tag before the ending of a name, which readers look at; `.tar.gz` and its like are one ending."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.rpartition(".")
    if not stem:
        stem, dot, ending = base, "", ""
    elif stem.endswith(".tar"):
        stem, ending = stem.removesuffix(".tar"), f"tar.{ending}"
    return f"{folder}{slash}{stem}.{tag}{dot}{ending}"


def without_tag(name: str, tag: str) -> str | None:
    """Undo `with_tag`; None if the tag is not in the last segment."""
    folder, slash, base = name.rpartition("/")
    parts = base.split(".")
    for place in range(len(parts) - 1, 0, -1):
        if parts[place] == tag:
            return folder + slash + ".".join(parts[:place] + parts[place + 1 :])
    return None


def parse_object_url(url: str) -> tuple[ObjectName, dict[str, str]]:
    """Undo `object_path` and `result_path`: the object, and the other query parameters without the tag.

    Raises:
        InvalidName: Not the URL of an object.
    """
    parts = urlsplit(url)
    _, found, rest = parts.path.partition(OBJECTS)
    name, slash, key = rest.partition("/")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    tag = query.pop(TAG, "")
    decoded = without_tag(unquote(key), tag) if tag else unquote(key)
    if not (found and name and slash and decoded and "provider" in query):
        raise InvalidName(f"{url!r} is not the URL of an object")
    return ObjectName(Bucket(query.pop("provider"), unquote(name)), decoded), query
