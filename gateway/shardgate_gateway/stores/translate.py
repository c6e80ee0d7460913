"""Foreign exceptions become ours here: one table for obstore, one for aiohttp, one for the file system.

obstore reports most of what a server says as one `GenericError` whose text carries the status and, behind
`Debug source:`, the chain of Rust errors. So a rule is an exception class and a pattern that its text must contain;
the first rule that fits wins. Patterns were collected from real servers and from a lying one, and the fault tests
keep them true for the pinned obstore.

Messages leave the process, so they carry only the first part of the text, without URLs (which say where the bucket
lies, and may hold passwords and signatures) and without the XML of the answer; the original exception is cut off for
the same reason.
"""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from obstore import exceptions as obstore

from shardgate.text import safe_line
from shardgate_gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    LocalStorageError,
    NotFound,
    PreconditionFailed,
    UpstreamCorrupt,
    UpstreamError,
    UpstreamStalled,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MAX_MESSAGE = 300
MAX_EXAMINED = 16 << 10
"""Characters of a foreign error that rules and `summary` look at: a store's answer may be of any length."""

RESUME = "the next try continues where this one stopped"
NO_CREDENTIALS = "give the gateway credentials (docs/buckets.md), or add skip_signature=true for a public bucket"
ENCODED = "the store sent the object in another encoding than it keeps; switch compression of objects off there"
RANGES = "a proxy or server in front of the store does not do ranges right; range answers must name what was asked"
REFUSED = "check the bucket's policy and the gateway's credentials"
NOTHING = "no such object"
NAMES = "an object and a folder can't have the same name here; choose another key"

_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,15}://[^\s'\"<>()]*")


class Rule(NamedTuple):
    """`says` stands in the message in place of the foreign error's text."""

    foreign: type[BaseException] | tuple[type[BaseException], ...]
    text: str
    ours: type[GatewayError]
    hint: str = ""
    says: str = ""


OBSTORE = (
    Rule(
        (FileNotFoundError, obstore.BaseError),
        r"NoSuchBucket|ContainerNotFound|list request[^|]{0,400}status code: 404",
        NotFound,
        "its location (`where`) names a bucket that the store does not have",
        "the bucket is not there",
    ),
    Rule(FileNotFoundError, "", NotFound, says=NOTHING),
    Rule(obstore.PreconditionError, "", PreconditionFailed),
    Rule(obstore.NotModifiedError, "", PreconditionFailed),
    Rule(obstore.AlreadyExistsError, "", Conflict, NAMES),
    Rule(obstore.PermissionDeniedError, "", Forbidden, REFUSED),
    Rule(obstore.UnauthenticatedError, "", Forbidden, NO_CREDENTIALS),
    Rule(obstore.InvalidPathError, "", BadRequest),
    Rule(obstore.NotSupportedError, "", BadRequest),
    Rule(obstore.UnknownConfigurationKeyError, "", BadRequest),
    Rule(
        obstore.BaseError,
        r"ExpiredToken|InvalidToken|TokenRefreshRequired|RequestTimeTooSkewed",
        Forbidden,
        NO_CREDENTIALS,
    ),
    Rule(obstore.BaseError, r"169\.254\.16|latest/api/token|[Mm]etadata[./]|[Cc]redential", Forbidden, NO_CREDENTIALS),
    Rule(
        obstore.BaseError,
        r"without LOCATION|PermanentRedirect",
        UpstreamError,
        "the bucket is in another region: set region=...",
    ),
    Rule(obstore.BaseError, r"NotPartial|UnexpectedRange|ContentRange", UpstreamCorrupt, RANGES),
    Rule(obstore.BaseError, r"MissingContentLength", UpstreamCorrupt, ENCODED),
    Rule(
        obstore.BaseError,
        r"kind: Connect|ConnectError",
        UpstreamUnavailable,
        "check the bucket's endpoint and the network",
    ),
    Rule(obstore.BaseError, r"kind: Timeout|TimedOut|operation timed out", UpstreamStalled, RESUME),
    Rule(obstore.BaseError, r"status: (429|408|5\d\d)\b|SlowDown", UpstreamUnavailable, RESUME),
    Rule(obstore.BaseError, r"status(?: code)?: 40[13]\b", Forbidden, REFUSED),
    Rule(obstore.BaseError, r"status: 4\d\d\b", BadRequest, "the store refuses this request for this key"),
    Rule(obstore.BaseError, r"request or response body error|connection|HttpError", UpstreamUnavailable, RESUME),
    Rule(obstore.BaseError, "", UpstreamError),
    Rule(UnicodeError, "", BadRequest, "a store takes only text that is UTF-8"),
    Rule(ValueError, "parse path", BadRequest),
    Rule(NotImplementedError, "", BadRequest),
)

AIOHTTP = (
    Rule(aiohttp.InvalidURL, "", BadRequest),
    Rule(aiohttp.ConnectionTimeoutError, "", UpstreamUnavailable, "check the bucket's address and the network"),
    Rule(TimeoutError, "", UpstreamStalled, RESUME),
    Rule(aiohttp.ClientPayloadError, "", UpstreamUnavailable, RESUME),
    Rule(aiohttp.ClientSSLError, "", UpstreamUnavailable, "check the server's certificate"),
    Rule(aiohttp.ClientConnectionError, "", UpstreamUnavailable, RESUME),
    Rule(aiohttp.ClientResponseError, "", UpstreamCorrupt, "the server's answer is not valid HTTP"),
    Rule(aiohttp.ClientError, "", UpstreamError),
    Rule(ConnectionError, "", UpstreamUnavailable, RESUME),
)

FILES: dict[int, tuple[type[GatewayError], str]] = {
    errno.ENOENT: (NotFound, ""),
    errno.ENOTDIR: (Conflict, NAMES),
    errno.EISDIR: (Conflict, NAMES),
    errno.ENOTEMPTY: (Conflict, NAMES),
    errno.EEXIST: (Conflict, NAMES),
    errno.EACCES: (Forbidden, "the gateway's user may not do this in the bucket's folder"),
    errno.EPERM: (Forbidden, "the gateway's user may not do this in the bucket's folder"),
    errno.ELOOP: (Forbidden, "the key leads through a symbolic link that goes in circles or was just exchanged"),
    errno.EROFS: (Forbidden, "the bucket's folder is on a read-only file system"),
    errno.ENAMETOOLONG: (BadRequest, "each part of a key may have 255 bytes in a folder"),
    errno.EINVAL: (BadRequest, ""),
    errno.EILSEQ: (BadRequest, ""),
    errno.ENXIO: (NotFound, ""),
    errno.ENODEV: (NotFound, ""),
}
"""By errno; any other one means that this machine's disk fails."""


def summary(error: BaseException) -> str:
    """The first part of a foreign error's text, safe to show."""
    text = _text(error).split("\n\nDebug source:", 1)[0] or type(error).__name__
    if code := _element(text, "Code"):
        text = f"{text[: text.find('<')].rstrip(': ')}: {': '.join(filter(None, (code, _element(text, 'Message'))))}"
    return safe_line(_URL.sub("the store", " ".join(text.split())), MAX_MESSAGE)


def translate(error: BaseException, label: str) -> GatewayError | None:
    """Our error for a foreign one, or None where it is none of a store's."""
    if isinstance(error, OSError) and error.filename is not None:
        return _of_file(error, label)
    text = _text(error)
    for rule in (*OBSTORE, *AIOHTTP):
        if isinstance(error, rule.foreign) and re.search(rule.text, text):
            return rule.ours(f"{label}: {rule.says or summary(error)}", hint=rule.hint)
    return _of_file(error, label) if isinstance(error, OSError) else None


def _of_file(error: OSError, label: str) -> GatewayError:
    """Its text would tell where the file is; the label says which object it is, and the system's word why."""
    ours, hint = FILES.get(error.errno or 0, (LocalStorageError, "check this machine's disk"))
    says = NOTHING if ours is NotFound else error.strerror or type(error).__name__
    return ours(f"{label}: {says}", hint=hint)


def _text(error: BaseException) -> str:
    """What is looked at of an error's text: its beginning, and its end, where the chain of causes stands."""
    text = str(error)
    return text if len(text) <= MAX_EXAMINED else f"{text[: MAX_EXAMINED // 2]} ... {text[-MAX_EXAMINED // 2 :]}"


def _element(text: str, name: str) -> str:
    """What the first XML element of this name holds; empty where there is none."""
    _, _, rest = text.partition(f"<{name}>")
    content, end, _ = rest.partition(f"</{name}>")
    return content if end else ""


@contextmanager
def translating(label: str) -> Iterator[None]:
    """Let only our errors out of the block; `label` names the object."""
    try:
        yield
    except GatewayError:
        raise
    except Exception as error:
        ours = translate(error, label)
        if ours is None:
            raise
        raise ours from None


class Body:
    """A body to be stored, that remembers how it failed: the sender's own error must not be taken for the store's."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise


@contextmanager
def storing(body: Body, label: str) -> Iterator[None]:
    """`translating` for a PUT: what `body` raised comes out as it was."""
    try:
        with translating(label):
            yield
    except Exception:
        if body.error is not None:
            raise body.error from None
        raise
