"""Conditional requests (RFC 9110, section 13): may the answer be skipped, and is the version the one that is wanted?

`If-Match` compares strongly: a weak etag never matches, since its bytes may differ. `If-None-Match` compares weakly.
The dates count only where the etag headers are absent, and only to the second. A date in `If-Range` never holds: it is
no strong validator (section 8.8.2.2), since an object may be written twice within its second, and every answer of ours
has an etag to ask by.

A list of etags is read in one pass. An etag may hold commas, so the list can't be split at them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import hdrs

from shardgate.dates import parse_http_date
from shardgate_gateway.errors import BadRequest, PreconditionFailed
from shardgate_gateway.stores.base import quoted_etag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multidict import CIMultiDictProxy

    from shardgate_gateway.stores.base import ObjectMeta

MAX_LIST = 16 << 10
"""Characters of a list of etags."""

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"')
_SEPARATOR = re.compile(r"[ \t,]*")


@dataclass(frozen=True, slots=True)
class Version:
    """What conditions are compared with: `etag` as it stands between the quotes of the header."""

    etag: str
    weak: bool = False
    last_modified: datetime | None = None

    @classmethod
    def of(cls, meta: ObjectMeta) -> Version:
        return cls(quoted_etag(meta.etag), meta.weak, meta.last_modified)

    @property
    def header(self) -> str:
        return f'W/"{self.etag}"' if self.weak else f'"{self.etag}"'


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
        BadRequest: A list of etags is longer than any reader needs.
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
        BadRequest: A list of etags is longer than any reader needs.
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
    return '"' in condition and _listed([condition], version, strong=True)


def _listed(values: list[str], version: Version, *, strong: bool) -> bool:
    if sum(map(len, values)) > MAX_LIST:
        raise BadRequest(f"a list of etags has more than {MAX_LIST} characters", hint="name fewer versions")
    text = ",".join(values).strip()
    if text == "*":
        return True
    if strong and version.weak:
        return False
    return any(tag == version.etag and not (strong and weak) for weak, tag in _tags(text))


def _tags(text: str) -> Iterator[tuple[bool, str]]:
    """The etags of a list, and whether each is weak, up to the first thing that is none."""
    at = _after_separator(text, 0)
    while tag := _TAG.match(text, at):
        at = _after_separator(text, tag.end())
        if at < len(text) and "," not in text[tag.end() : at]:
            return
        yield tag[1] is not None, tag[2]


def _after_separator(text: str, at: int) -> int:
    separator = _SEPARATOR.match(text, at)
    assert separator is not None  # it may be empty
    return separator.end()


def _date(headers: CIMultiDictProxy[str], name: str) -> datetime | None:
    """A date that makes no sense, or lies outside of the calendar, is ignored, as the RFC demands."""
    return parse_http_date(headers.get(name))


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
