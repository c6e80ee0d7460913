"""Provider names, as they stand in front of `://` in a bucket: one table that client and gateway share.

A bucket is named `PROVIDER://NAME`. The canonical names are those of AIStore and of the documentation; every store's
own spelling (`gs`, `s3`, `azure`) is accepted as a synonym. A provider is a label of the bucket, chosen by who
configures it: where the bytes come from is the configuration's business, so `gcp://imagenet` may be a local folder.
"""

from __future__ import annotations

SYNONYMS = {
    "gcp": ("gs",),
    "aws": ("s3",),
    "az": ("azure",),
    "http": ("https",),
    "file": (),
    "mem": ("memory",),
}
"""Canonical name to its other spellings."""

PROVIDERS = tuple(SYNONYMS)

_CANONICAL = {spelling: name for name, others in SYNONYMS.items() for spelling in (name, *others)}


def canonical(provider: str) -> str:
    """The one name of a provider: `canonical("gs") == "gcp"`.

    Raises:
        ValueError: No provider is called that; the message lists those that are.
    """
    try:
        return _CANONICAL[provider.lower()]
    except KeyError:
        raise ValueError(f"unknown provider {provider!r}; known are {', '.join(_CANONICAL)}") from None


def split_bucket(bucket: str) -> tuple[str, str]:
    """Take `PROVIDER://NAME` apart: `split_bucket("gs://b") == ("gcp", "b")`.

    Raises:
        ValueError: Not of that form, or the provider is unknown.
    """
    provider, separator, name = bucket.partition("://")
    name = name.rstrip("/")
    if not separator or not name or "/" in name:
        raise ValueError(f"{bucket!r} is not a bucket; write PROVIDER://NAME, like gcp://imagenet")
    return canonical(provider), name
