"""What the gateway needs of a remote bucket: six async methods.

Essential reading, in order: `ObjectMeta` (what is known of an object), `ObjectStream` (bytes on their way),
`Store` (the interface). Implementations: `object_store.py` (S3, GCS, Azure, local folder, memory, through obstore),
`http_origin.py` (any web server). Wrappers are stores themselves, one per file. `open.py` turns a configured
bucket into a composed store.

All methods raise only `shardgate_gateway.errors`: NotFound, Forbidden, PreconditionFailed, UpstreamUnavailable,
UpstreamStalled, UpstreamCorrupt, GenerationChanged, BadRequest (a key this store can't hold).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime


_ETAG_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """One version of one object.

    Attributes:
        key: Name within the bucket, exactly as stored, not quoted.
        size: Bytes; None where the origin does not say (a chunked HTTP response).
        etag: Opaque version identity without quotes or `W/`. Never empty: a store that has none derives it from
            size and modification time, and sets `weak`.
        weak: The etag may not change when the bytes do; such an object is never resumed by range after a failure.
        last_modified: Aware datetime, or None.
        content_type: As the store has it, or None.
    """

    key: str
    size: int | None
    etag: str
    weak: bool = False
    last_modified: datetime | None = None
    content_type: str | None = None

    @property
    def etag_header(self) -> str:
        """The value of its ETag header, by which it can be asked for again."""
        return f'W/"{quoted_etag(self.etag)}"' if self.weak else f'"{quoted_etag(self.etag)}"'


@lru_cache(maxsize=4096)
def quoted_etag(etag: str) -> str:
    """An opaque etag as it may stand in a header; those of real stores stay what they are."""
    return quote(etag, safe=_ETAG_SAFE)


@dataclass(slots=True)
class ObjectStream:
    """Bytes `[start, end)` of one version on their way.

    `chunks` yields non-empty buffers in order. It ends normally only if exactly `end - start` bytes came (or, where
    the size is unknown, if the transport said that the body is complete); otherwise it raises. Whoever gets a stream
    calls `aclose()`, also after a failure.
    """

    meta: ObjectMeta
    start: int
    end: int | None
    chunks: AsyncIterator[bytes | memoryview]
    partial: bool = True
    """Only the bytes asked for travel; False where the store sends the whole object, and the rest is thrown away."""

    async def aclose(self) -> None:
        close = getattr(self.chunks, "aclose", None)
        if close is not None:
            await close()


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing, in the store's order. `token` asks for the next page; None means this is the last."""

    objects: tuple[ObjectMeta, ...]
    prefixes: tuple[str, ...] = field(default=())
    token: str | None = None


class Store(ABC):
    """A remote bucket."""

    @abstractmethod
    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        """Open bytes `[start, end)` (to the last byte without `end`).

        Args:
            key: Object name.
            start: First byte.
            end: One behind the last byte; cut to the object's size.
            if_match: Only this etag will do.

        Raises:
            NotFound: No such object.
            PreconditionFailed: The object has another etag than `if_match`.
            RangeNotSatisfiable: `start` lies behind the last byte.
            UpstreamError: See the module docstring; the chunks raise these as well, and GenerationChanged where the
                object changed between two requests that the store itself made.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectMeta:
        """Describe the current version. Raises as `get`."""

    @abstractmethod
    async def put(
        self, key: str, body: AsyncIterator[bytes], *, size: int | None = None, content_type: str | None = None
    ) -> ObjectMeta:
        """Store a body whole or not at all: when `body` raises, nothing is visible under `key`.

        Raises:
            BadRequest: The store is read-only, or can't hold this key.
            UpstreamError: The store failed.
        """

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove the object; NotFound where there is none."""

    @abstractmethod
    async def list(
        self, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        """One page of at most `limit` objects whose key starts with `prefix` (a plain string prefix).

        Args:
            prefix: Plain string prefix, not a folder.
            token: From the page before.
            limit: 1 to 1000.
            delimiter: Fold keys at the next `/` into `prefixes`.
        """

    async def aclose(self) -> None:  # noqa: B027 - a store without connections has nothing to release
        """Release connections. The default has none."""
