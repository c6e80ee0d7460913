"""Conditional requests (RFC 9110, section 13): may the answer be skipped, and is the version the one that is wanted?

`If-Match` compares strongly: a weak etag never matches, since its bytes may differ. `If-None-Match` compares weakly.
The dates count only where the etag headers are absent, and only to the second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import hdrs

from shardgate_gateway.errors import PreconditionFailed

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from shardgate_gateway.stores.base import ObjectMeta

_TAG = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"[ \t]*(?:,|$)')
_ETAG_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


@dataclass(frozen=True, slots=True)
class Version:
    """What conditions are compared with: `etag` as it stands between the quotes of the header."""

    etag: str
    weak: bool = False
    last_modified: datetime | None = None

    @classmethod
    def of(cls, meta: ObjectMeta) -> Version:
        return cls(quoted(meta.etag), meta.weak, meta.last_modified)

    @property
    def header(self) -> str:
        return f'W/"{self.etag}"' if self.weak else f'"{self.etag}"'


@lru_cache(maxsize=4096)
def quoted(etag: str) -> str:
    """An opaque etag as it may stand in a header; those of real stores stay what they are."""
    return quote(etag, safe=_ETAG_SAFE)


@lru_cache(maxsize=4096)
def http_date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def is_conditional(headers: CIMultiDictProxy[str]) -> bool:
    return (
        hdrs.IF_MATCH in headers
        or hdrs.IF_NONE_MATCH in headers
        or hdrs.IF_MODIFIED_SINCE in headers
        or hdrs.IF_UNMODIFIED_SINCE in headers
    )


def not_modified(headers: CIMultiDictProxy[str], version: Version) -> bool:
    """Evaluate the preconditions of a GET or HEAD, in the RFC's order: True is 304.

    Raises:
        PreconditionFailed: If-Match or If-Unmodified-Since does not hold.
    """
    check_unchanged(headers, version)
    if hdrs.IF_NONE_MATCH in headers:
        return _listed(headers.getall(hdrs.IF_NONE_MATCH), version, strong=False)
    since = _date(headers, hdrs.IF_MODIFIED_SINCE)
    return since is not None and version.last_modified is not None and _second(version.last_modified) <= since


def check_unchanged(headers: CIMultiDictProxy[str], version: Version) -> None:
    """The preconditions that also a PUT may have.

    Raises:
        PreconditionFailed: If-Match or If-Unmodified-Since does not hold.
    """
    if hdrs.IF_MATCH in headers:
        holds = _listed(headers.getall(hdrs.IF_MATCH), version, strong=True)
    else:
        since = _date(headers, hdrs.IF_UNMODIFIED_SINCE)
        holds = since is None or version.last_modified is None or _second(version.last_modified) <= since
    if not holds:
        raise PreconditionFailed(f"the object has another version now: {version.header}")


def range_applies(headers: CIMultiDictProxy[str], version: Version) -> bool:
    """`If-Range`: the range counts only if this is still the version that the reader has the other part of."""
    condition = headers.get(hdrs.IF_RANGE)
    if condition is None:
        return True
    if '"' in condition:
        return _listed([condition], version, strong=True)
    date = _parsed(condition)
    return date is not None and version.last_modified is not None and _second(version.last_modified) == date


def _listed(values: list[str], version: Version, *, strong: bool) -> bool:
    text = ",".join(values).strip()
    if text == "*":
        return True
    if strong and version.weak:
        return False
    return any(tag == version.etag and not (strong and weak) for weak, tag in _TAG.findall(text))


def _date(headers: CIMultiDictProxy[str], name: str) -> datetime | None:
    value = headers.get(name)
    return None if value is None else _parsed(value)


def _parsed(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
