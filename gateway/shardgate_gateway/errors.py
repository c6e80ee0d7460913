"""Every way a request can fail, and what the operator can do about it.

    GatewayError
    ├── BadRequest             the request itself is wrong
    ├── Unauthenticated        no valid bearer token came with the request
    ├── Forbidden              the store or a rule refuses
    ├── NotFound               bucket, object, member or transform is not there
    ├── Conflict               it is there already, or in use
    ├── PreconditionFailed     If-Match does not hold (the object has another version now)
    ├── RangeNotSatisfiable    the range starts behind the last byte
    ├── PackageInvalid         an uploaded transform package can't be used, and why
    ├── Busy                   bounded queues are full; carries the seconds after which to try again
    ├── UpstreamError          the remote store failed
    │   ├── UpstreamUnavailable    it refuses, resets or throttles; trying again may help
    │   ├── UpstreamStalled        no byte arrived within the progress timeout
    │   ├── UpstreamCorrupt        it sent bytes that are not the object (short, wrong range, encoded)
    │   └── GenerationChanged      the object was overwritten while it was being read
    ├── TransformError         user code, or the process that runs it, failed
    │   ├── TransformChanged       its workers are of another environment than its results were named for
    │   ├── TransformStartError    the runtime could not start (import error, missing requirement)
    │   ├── SampleError            the function failed on a sample, and the policy says fail
    │   └── WorkerLost             a worker died or hung, and its work could not be continued
    ├── KubernetesError        the Kubernetes API refuses, and why
    │   └── KubernetesUnavailable  it does not answer, or says to try again
    ├── CacheCorrupt           a cached block does not match its checksum
    └── LocalStorageError      this node's disk is full or failing

An error knows its cause and a hint, nothing about HTTP: `http/problems.py` holds the one table that maps
classes to status codes. Errors of libraries are translated where the library is called (`stores/`, `state/`),
so that nothing above ever sees an obstore, aiohttp or SQLAlchemy exception.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of all errors that the gateway reports on purpose.

    Args:
        message: What happened, naming the object, sample, transform or setting.
        hint: What the reader of the message can do about it; may be empty.
        retry_after: Seconds after which another try makes sense, where that is known.
    """

    code = "internal"

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after


class BadRequest(GatewayError):
    code = "bad_request"


class Unauthenticated(GatewayError):
    code = "unauthenticated"


class Forbidden(GatewayError):
    code = "forbidden"


class NotFound(GatewayError):
    code = "not_found"


class Conflict(GatewayError):
    code = "conflict"


class PreconditionFailed(GatewayError):
    code = "precondition_failed"


class RangeNotSatisfiable(GatewayError):
    """Carries the object's size in bytes for the `Content-Range: bytes */size` of the answer."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, hint=f"the object has {size} bytes")
        self.size = size


class PackageInvalid(GatewayError):
    code = "package_invalid"


class Busy(GatewayError):
    """`place`, where it is not empty, keeps the asker's place in the line, with the `refusals` by earlier stages."""

    code = "busy"
    place = ""
    refusals = 0


class Draining(Busy):
    """This gateway shuts down; another one answers."""

    code = "draining"


class UpstreamError(GatewayError):
    code = "upstream_error"


class UpstreamUnavailable(UpstreamError):
    code = "upstream_unavailable"


class UpstreamStalled(UpstreamError):
    code = "upstream_stalled"


class UpstreamCorrupt(UpstreamError):
    code = "upstream_corrupt"


class GenerationChanged(UpstreamError):
    code = "generation_changed"


class TransformError(GatewayError):
    code = "transform_failed"


class TransformChanged(TransformError):
    code = "transform_changed"


class TransformStartError(TransformError):
    code = "transform_start_failed"


class SampleError(TransformError):
    """Names the sample by index and key where one is to blame, and carries the traceback of the user's function."""

    code = "sample_failed"

    def __init__(
        self, message: str, *, hint: str = "", sample: int | None = None, key: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.sample = sample
        self.key = key
        self.traceback = traceback


class WorkerLost(TransformError):
    code = "worker_lost"


class KubernetesError(GatewayError):
    """Carries the answer's HTTP status (0 without an answer) and Kubernetes' own reason (`NotFound`, `Forbidden`)."""

    code = "kubernetes_failed"

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float | None = None, status: int = 0, reason: str = ""
    ) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.status = status
        self.reason = reason


class KubernetesUnavailable(KubernetesError):
    code = "kubernetes_unavailable"


class CacheCorrupt(GatewayError):
    code = "cache_corrupt"


class LocalStorageError(GatewayError):
    code = "local_storage"
