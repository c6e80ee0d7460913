"""Status line and headers of an object's answer, as bytes.

A warm small object is answered in about twenty microseconds, so its head is put together from strings that were made
once per version instead of through a dictionary of headers.
"""

from __future__ import annotations

import mimetypes
import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.http.conditions import Version, http_date

if TYPE_CHECKING:
    from shardgate_gateway.stores.base import ObjectMeta

DEFAULT_TYPE = "application/octet-stream"
_TOKEN = r"[\w!#$%&'*+.^`|~-]+"  # noqa: S105 (a token of the HTTP grammar)
_CONTENT_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}([ \t]*;[\t\x20-\x7e]*)?", re.ASCII)
_STATUS_LINES = {status: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


@lru_cache(maxsize=4096)
def entity(meta: ObjectMeta) -> str:
    """The headers that belong to the version, not to the answer."""
    modified = f"Last-Modified: {http_date(meta.last_modified)}\r\n" if meta.last_modified else ""
    return f"ETag: {Version.of(meta).header}\r\n{modified}Content-Type: {content_type(meta)}\r\n"


def content_type(meta: ObjectMeta) -> str:
    """As the store says, else by the name; compressed files are what they are, not an encoding of something else."""
    if meta.content_type and _CONTENT_TYPE.fullmatch(meta.content_type):
        return meta.content_type
    guess, encoding = mimetypes.guess_type(meta.key)
    return DEFAULT_TYPE if guess is None or encoding else guess


def head(
    status: HTTPStatus,
    fields: str,
    *,
    request_id: str,
    length: int | None,
    closing: bool,
    more: str = "",
) -> bytes:
    """Everything before the body.

    Args:
        status: Of the answer.
        fields: Header lines that describe the object, as from `entity`.
        request_id: Of the request.
        length: Bytes of the body; None sends it in chunks.
        closing: The connection ends with this answer.
        more: Header lines of this answer alone.
    """
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    text = (
        f"{_STATUS_LINES[status]}{framing}\r\n{fields}{more}{wire.REQUEST_ID_HEADER}: {request_id}\r\n"
        f"{'Connection: close' if closing else 'Connection: keep-alive'}\r\n"
        f"Date: {_date(int(time.time()))}\r\nServer: shardgate\r\n\r\n"
    )
    return text.encode("latin-1")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
