"""What the log says of single requests: those that failed or were refused, and with `log.access` every one.

A path is shown, and a query never: people paste tokens into URLs. Failures are bounded (`bounded_log.py`), the access
log is not: whoever turns it on wants every line.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.bounded_log import BoundedLog
from shardgate_gateway.http.problems import status_of

if TYPE_CHECKING:
    from asyncio import BaseTransport

    from shardgate_gateway.auth.grant import Grant
    from shardgate_gateway.errors import GatewayError
    from shardgate_gateway.http.call import Call

log = logging.getLogger(__name__)
access_log = logging.getLogger("shardgate_gateway.access")

REFUSALS = frozenset({401, 403})
FAILURE = 500

_refused = BoundedLog(log, "refused requests")
_failed = BoundedLog(log, "failed requests")
_broken = BoundedLog(log, "answers that were broken off")


class Answered(NamedTuple):
    """A request and its answer, as the access log shows them."""

    request_id: str
    method: str
    path: str
    status: int
    bytes: int
    """Of the whole answer, as far as it went out."""
    seconds: float
    subject: str
    client: str


def log_problem(call: Call, error: GatewayError, grant: Grant) -> None:
    """A request is answered with an error: logged if it is the gateway's or a store's, or a refused token."""
    status = status_of(error)
    if status in REFUSALS:
        _write(_refused, call, error, grant, str(status))
    elif status >= FAILURE:
        _write(_failed, call, error, grant, str(status))


def log_broken_off(call: Call, error: GatewayError) -> None:
    """The connection ends inside a body."""
    _write(_broken, call, error, call.grant, "broken off")


def _write(where: BoundedLog, call: Call, error: GatewayError, grant: Grant, end: str) -> None:
    method, client = call.request.method, client_of(call.request.transport)
    fields = {
        "request_id": call.id,
        "method": method,
        "path": call.path,
        "status": status_of(error),
        "code": error.code,
        "subject": grant.subject,
        "client": client,
    }
    where.write(
        logging.WARNING,
        "request %s: %s %s %s: %s: %s (%s from %s)",
        *(call.id, method, call.path, end, error.code, error.message, grant.subject, client),
        extra={"fields": fields},
    )


def log_access(answered: Answered) -> None:
    access_log.info("%s: %s %s: %d, %d bytes in %.4f s (%s from %s)", *answered, extra={"fields": answered._asdict()})


def client_of(transport: BaseTransport | None) -> str:
    """The address that a connection comes from."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else "a client that left"
