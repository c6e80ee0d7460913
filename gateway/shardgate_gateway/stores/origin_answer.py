"""What a web server says about an object, parsed once.

Every header comes from outside, and whatever it holds has to end in one of three ways: it is used, it is dropped (a
date, a type: the object does without), or the answer is refused as UpstreamCorrupt (a span, an end: the bytes would be
wrong). Nothing that passes here can fail later, in the cache's files, in our own headers, or in a log.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs

from shardgate.dates import parse_http_date
from shardgate.framing import FRAMING_HINT, framing_of
from shardgate.text import safe_line
from shardgate_gateway.errors import UpstreamCorrupt
from shardgate_gateway.stores.translate import RANGES

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

MAX_ETAG = 512
"""Bytes of an etag that is kept as it is; longer ones would not fit our own headers and the cache's files."""
CODINGS = frozenset(
    (
        *("gzip", "gz", "deflate", "zlib", "compress", "br", "brotli", "zstd", "zst", "dcb", "dcz", "exi"),
        *("pack200-gzip", "aes128gcm", "bzip", "bzip2", "bz2", "xz", "lzma", "lzip", "lz4", "lzo", "snappy"),
        *("sdch", "peerdist", "xpress", "zip"),
    )
)
"""Content codings that change the bytes (IANA's, and others in use), without `x-`. All other words that stand there
(`aws-chunked`, `none`, `binary`, `utf-8`) are left over from an upload, and code nothing that anybody could undo."""
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_CONTENT_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,255}")
_SECONDS = re.compile(r"[0-9]{1,9}")
_UNFIT = {
    HTTPStatus.NON_AUTHORITATIVE_INFORMATION: "203, which says that a proxy on the way changed the answer",
    HTTPStatus.NO_CONTENT: "204, which says that there is no content",
    HTTPStatus.RESET_CONTENT: "205, which says that there is no content",
    HTTPStatus.NOT_MODIFIED: "304, and nothing had asked for changes only",
}
NOT_ENCODED = (
    "switch compression off for these files at the server or proxy (nginx: gzip off); objects that are stored "
    "compressed under this label come as they are through their store's own address (s3://, gs://, az://)"
)


class Span(NamedTuple):
    """Which bytes of the object an answer holds: `[start, end)` of `size`; None is unknown."""

    start: int
    end: int | None
    size: int | None
    partial: bool


class OriginAnswer(NamedTuple):
    """A good answer.

    Attributes:
        span: The bytes that its body holds; of an answer to HEAD, the body of a GET.
        etag: As it stands between the quotes, in a form that fits everywhere; empty without a usable one.
        weak: It has no etag that promises the same bytes.
        last_modified: In UTC.
        content_type: Printable ASCII.
    """

    span: Span
    etag: str
    weak: bool
    last_modified: datetime | None
    content_type: str | None

    @property
    def facts(self) -> frozenset[str]:
        """Which facts about the object it tells."""
        told = {
            "etag": self.etag,
            "strong etag": self.etag and not self.weak,
            "date": self.last_modified,
            "size": self.span.size is not None,
        }
        return frozenset(fact for fact, value in told.items() if value)


def read_answer(status: int, headers: CIMultiDictProxy[str], name: str, *, has_body: bool) -> OriginAnswer:
    """Parse the head of an answer below 400.

    Args:
        status: Of the answer.
        headers: Of the answer.
        name: Of the object, for messages.
        has_body: It is no answer to HEAD.

    Raises:
        UpstreamCorrupt: Its bytes are not the object's, or their end can't be known.
    """
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise UpstreamCorrupt(
            f"{name}: the server answered {_UNFIT.get(HTTPStatus(status)) if status in _UNFIT else status}",
            hint="a GET of the object has to be answered by 200 (or 206 for a range); see what answers at this address",
        )
    _check_coding(headers, name)
    length, problem = framing_of(headers)
    if problem and has_body:
        raise UpstreamCorrupt(f"{name}: the end of the body can't be known: {problem}", hint=FRAMING_HINT)
    etag, weak = parse_etag(headers.getall(hdrs.ETAG, []))
    return OriginAnswer(
        _span(status, length, headers, name),
        etag,
        weak,
        parse_http_date(headers.get(hdrs.LAST_MODIFIED)),
        _content_type(headers.get(hdrs.CONTENT_TYPE, "")),
    )


def parse_etag(values: list[str]) -> tuple[str, bool]:
    """What stands between the quotes, and whether it is weak; one without quotes promises nothing.

    Two ETag headers that differ are none.
    """
    texts = {value.strip(" \t") for value in values}
    text = texts.pop() if len(texts) == 1 else ""
    weak = text[:2] in {"W/", "w/"}
    opaque = text[2:] if weak else text
    if len(opaque) > 1 and opaque[0] == opaque[-1] == '"':
        return opaque[1:-1], weak or not opaque[1:-1]
    return opaque.strip('"'), True


def fitting_etag(opaque: str) -> str:
    """An etag that fits into headers, files and messages: itself, or a digest where it is too long or no text."""
    if opaque.isprintable() and len(opaque.encode()) <= MAX_ETAG:
        return opaque
    return f"sha256-{hashlib.sha256(opaque.encode('utf-8', 'surrogatepass')).hexdigest()}"


def parse_retry_after(text: str | None) -> float | None:
    """Seconds: `Retry-After` is a number of them, or a date."""
    if text is None:
        return None
    if _SECONDS.fullmatch(text.strip(" \t")):
        return float(text)
    when = parse_http_date(text)
    return None if when is None else max(0.0, (when - datetime.now(UTC)).total_seconds())


def coding_of(headers: CIMultiDictProxy[str]) -> str:
    """How a body is encoded, where its bytes are others for that; "" for none, and for words that change nothing."""
    for word in ",".join(headers.getall(hdrs.CONTENT_ENCODING, [])).lower().split(","):
        coding = word.partition(";")[0].strip(" \t")
        if coding.removeprefix("x-") in CODINGS:
            return safe_line(coding, 20)
    return ""


def _check_coding(headers: CIMultiDictProxy[str], name: str) -> None:
    if coding := coding_of(headers):
        raise UpstreamCorrupt(
            f"{name}: the server sent it encoded as {coding}, which is not the object", hint=NOT_ENCODED
        )


def _span(status: int, length: int | None, headers: CIMultiDictProxy[str], name: str) -> Span:
    if status == HTTPStatus.OK:
        return Span(0, length, length, partial=False)
    told = headers.get(hdrs.CONTENT_RANGE, "").strip(" \t")
    match = _CONTENT_RANGE.fullmatch(told)
    if match is None:
        raise UpstreamCorrupt(f"{name}: the server answered 206 without a good Content-Range", hint=RANGES)
    start, end = int(match[1]), int(match[2]) + 1
    size = None if match[3] == "*" else int(match[3])
    if end <= start or (size is not None and end > size) or length not in {None, end - start}:
        raise UpstreamCorrupt(f"{name}: the server sent {told!r} and Content-Length {length}", hint=RANGES)
    return Span(start, end, size, partial=True)


def _content_type(text: str) -> str | None:
    text = text.strip(" \t")
    return text if _CONTENT_TYPE.fullmatch(text) else None
