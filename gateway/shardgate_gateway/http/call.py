"""One request on its way through the handlers, and the names it goes by in logs."""

from __future__ import annotations

import itertools
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.auth.grant import NOBODY
from shardgate_gateway.http.request import split_target

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest
    from multidict import CIMultiDictProxy

    from shardgate_gateway.auth.grant import Grant

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PROCESS = secrets.token_hex(4)
_COUNTER = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is being answered.

    Attributes:
        request: aiohttp's view of it.
        id: Names the request in answers and logs.
        path, query: Still percent-encoded.
        closing: The connection ends with this answer.
        grant: Who asks, and what they may do.
        extra_headers: Lines that the head of the answer gets besides its own.
        bucket: `provider://name` of the object that is asked for, for metrics.
    """

    request: BaseRequest
    id: str
    path: str
    query: str
    closing: bool
    grant: Grant = NOBODY
    extra_headers: str = ""
    bucket: str = ""

    @classmethod
    def of(cls, request: BaseRequest, *, draining: bool) -> Call:
        path, query = split_target(request.raw_path)
        return cls(request, request_id(request.headers), path, query, draining or not request.keep_alive)

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self.request.headers


def request_id(headers: CIMultiDictProxy[str]) -> str:
    """The client's own id if it is harmless, else a new one."""
    given = headers.get(wire.REQUEST_ID_HEADER)
    return given if given is not None and _CLIENT_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    return f"{_PROCESS}-{next(_COUNTER):x}"
