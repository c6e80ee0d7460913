"""Every way the client can fail, and what its reader can do about it.

    ShardgateError
    ├── InvalidName            a bucket, object, provider or transform name that can't be used
    ├── TemplateError          a brace template that expands to too much
    ├── CaptureError           a function that can't be sent, naming the thing inside it that is to blame
    ├── MissingExtra           an optional dependency is not installed
    ├── EmbeddedGatewayError   the gateway that `embedded()` started did not come up
    ├── GatewayUnreachable     nobody answers at the endpoint
    ├── TransferIncomplete     a body ended early, and reading on failed; nothing short was handed out as whole
    │   └── ObjectChanged          it was overwritten while it was being read
    └── GatewayError           the gateway answered with an error; carries its code and request id
        ├── BadRequest             the request itself is wrong
        ├── Unauthorized           no token, a wrong one, or not allowed
        ├── NotFound               bucket, object, member or transform is not there
        ├── Conflict               it is there already, in use, or of another version
        ├── Busy                   try again after `retry_after` seconds
        ├── UpstreamFailed         the remote store failed
        └── TransformFailed        user code, or the process that runs it, failed; the message holds its text

`str(error)` is the message, the hint and the request id, so that a traceback says all there is.
"""

from __future__ import annotations


class ShardgateError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: What happened.
        hint: What to do about it; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class InvalidName(ShardgateError, ValueError):
    pass


class TemplateError(ShardgateError, ValueError):
    pass


class CaptureError(ShardgateError, TypeError):
    pass


class MissingExtra(ShardgateError, ImportError):
    """An optional part of shardgate is not installed.

    Args:
        need: The module that is missing.
        extra: The extra that brings it.
    """

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(f"this needs {need}, which is not installed", hint=f"pip install 'shardgate[{extra}]'")


class EmbeddedGatewayError(ShardgateError):
    pass


class GatewayUnreachable(ShardgateError, ConnectionError):
    pass


class TransferIncomplete(ShardgateError, OSError):
    pass


class ObjectChanged(TransferIncomplete):
    pass


class GatewayError(ShardgateError):
    """The gateway's own error.

    Args:
        message, hint: As the gateway says.
        status: HTTP status.
        code: The gateway's word for it, like `not_found`; stable, unlike the message.
        request_id: Finds the request in the gateway's log.
        retry_after: Seconds, where the gateway names them.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n  request: {self.request_id}" if self.request_id else text


class BadRequest(GatewayError):
    pass


class Unauthorized(GatewayError):
    pass


class NotFound(GatewayError):
    pass


class Conflict(GatewayError):
    pass


class Busy(GatewayError):
    """All workers are taken, or the gateway is. `place` is what keeps our place in the line, where there is one."""

    place = ""


class UpstreamFailed(GatewayError):
    pass


class TransformFailed(GatewayError):
    pass


BY_CODE: dict[str, type[GatewayError]] = {
    "bad_request": BadRequest,
    "range_not_satisfiable": BadRequest,
    "package_invalid": BadRequest,
    "unauthenticated": Unauthorized,
    "forbidden": Unauthorized,
    "not_found": NotFound,
    "conflict": Conflict,
    "precondition_failed": Conflict,
    "busy": Busy,
    "draining": Busy,
    "upstream_error": UpstreamFailed,
    "upstream_unavailable": UpstreamFailed,
    "upstream_stalled": UpstreamFailed,
    "upstream_corrupt": UpstreamFailed,
    "generation_changed": UpstreamFailed,
    "kubernetes_failed": UpstreamFailed,
    "kubernetes_unavailable": UpstreamFailed,
    "transform_failed": TransformFailed,
    "transform_changed": Busy,
    "transform_start_failed": TransformFailed,
    "sample_failed": TransformFailed,
    "worker_lost": TransformFailed,
}
"""The gateway's error codes, as in the `code` of its JSON errors."""

BY_STATUS: dict[int, type[GatewayError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    405: BadRequest,
    409: Conflict,
    412: Conflict,
    413: BadRequest,
    416: BadRequest,
    422: TransformFailed,
    429: Busy,
    502: UpstreamFailed,
    503: Busy,
    504: UpstreamFailed,
}
"""For answers without a code: of proxies in between."""
