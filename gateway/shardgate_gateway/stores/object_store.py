"""Buckets of object stores (S3, GCS, Azure, memory) through obstore.

obstore is fast and knows every provider's credentials and quirks; this class gives it our interface and takes back
four things that it does differently:

- *Resumption.* obstore resumes a broken body by itself and then compares etags. Here the cache resumes, pinned to the
  version it already has, so bodies are read through a client without retries (`reads`). Everything that nobody above
  would repeat (HEAD, PUT, DELETE, listing) goes through a client with retries (`calls`).
- *Time.* obstore's `timeout` covers a whole body and is switched off for `reads`, whose `read_timeout` covers the wait
  for the next byte. It does not run while a slow reader keeps us from reading.
- *Prefixes.* obstore lists folders; we list plain string prefixes (`listing.py`).
- *Deletion.* S3 says yes to deleting nothing; we say NotFound.

What an upload gathers is counted by `upload_memory.py`.
"""

from __future__ import annotations

import atexit
import time
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError

from shardgate_gateway.errors import BadRequest, PreconditionFailed, RangeNotSatisfiable, UpstreamCorrupt, UpstreamError
from shardgate_gateway.stores.base import ListPage, ObjectMeta, ObjectStream, Store
from shardgate_gateway.stores.keys import check_key
from shardgate_gateway.stores.listing import walk
from shardgate_gateway.stores.translate import Body, storing, translating
from shardgate_gateway.stores.upload_memory import UploadMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore import GetOptions, GetResult
    from obstore import ObjectMeta as Described
    from obstore.store import ObjectStore

CHUNK = 512 << 10
"""Bytes per chunk of a body: the fewest CPU seconds per GiB of 16 KiB to 8 MiB (docs/buckets.md has the table)."""
PART = 8 << 20
"""Bytes per part of an upload. A body that fits in one is stored by one request."""
MAX_PARTS = 10_000
"""S3's limit."""
CONCURRENT_PARTS = 4
"""Of one upload, on their way to the store while the next one is gathered."""
UNLIMITED = 1 << 62
CHANGED = "the store, or a proxy before it, changed the body on the way"
EXIT_SECONDS = 0.05
"""obstore's threads give Python objects back a moment after their result is here. One that the interpreter's end
overtakes aborts the process (PyO3/pyo3-async-runtimes#40), so the end of a process waits for that moment."""
atexit.register(time.sleep, EXIT_SECONDS)


class ObjectStoreBucket(Store):
    """One bucket, or a folder of one.

    Args:
        reads: obstore client for bodies: no retries, no limit on a whole body.
        calls: obstore client for everything else, with retries.
        label: `provider://name`, for messages.
        without: Characters that the store would change in keys.
        etag_prefix: Put before every etag, where the store's own are not unique (memory).
        memory: What uploads may gather; without it, as much as they like.
    """

    def __init__(
        self,
        reads: ObjectStore,
        calls: ObjectStore,
        *,
        label: str,
        without: str = "",
        etag_prefix: str = "",
        memory: UploadMemory | None = None,
    ) -> None:
        self._reads = reads
        self._calls = calls
        self._label = label
        self._without = without
        self._etag_prefix = etag_prefix
        self._memory = memory or UploadMemory(UNLIMITED, 0)

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, if_match: str | None = None
    ) -> ObjectStream:
        check_key(key, without=self._without)
        options = self._options(key, start, end, if_match)
        with translating(self._name(key)):
            try:
                result = await obstore.get_async(self._reads, key, options=options)
            except BaseError as error:
                if not _starts_too_far(error):
                    raise
                now = await self._describe(key)
                self._check_version(now, if_match)
                raise RangeNotSatisfiable(f"{self._name(key)} has no byte {start}", size=now.size or 0) from None
        meta = self._meta(result.meta, result.attributes.get("Content-Type"))
        self._check_version(meta, if_match)
        first, last = result.range
        return ObjectStream(meta, first, last, self._chunks(result, key, last - first))

    async def head(self, key: str) -> ObjectMeta:
        check_key(key, without=self._without)
        with translating(self._name(key)):
            return await self._describe(key)

    async def put(
        self, key: str, body: AsyncIterator[bytes], *, size: int | None = None, content_type: str | None = None
    ) -> ObjectMeta:
        check_key(key, without=self._without)
        source = Body(body)
        part = max(PART, -(-(size or 0) // MAX_PARTS))
        parts = min(CONCURRENT_PARTS, max(1, self._memory.limit // (2 * part)))
        needed = size if size is not None and size <= PART else part * (parts + 2)
        async with self._memory.hold(needed):
            with storing(source, self._name(key)):
                chunks = aiter(source)
                head, whole = await _take(chunks, PART)
                await obstore.put_async(
                    self._calls,
                    key,
                    head if whole else _chain(head, chunks),
                    attributes={"Content-Type": content_type} if content_type else None,
                    use_multipart=not whole,
                    chunk_size=part,
                    max_concurrency=parts,
                )
                return await self._describe(key)

    async def delete(self, key: str) -> None:
        await self.head(key)
        with translating(self._name(key)):
            await obstore.delete_async(self._calls, key)

    async def list(
        self, prefix: str = "", *, token: str | None = None, limit: int = 1000, delimiter: bool = False
    ) -> ListPage:
        objects: list[ObjectMeta] = []
        prefixes: list[str] = []
        last = None
        with translating(f"{self._label}/{prefix}"):
            async for key, found in walk(self._calls, prefix, token, delimiter=delimiter):
                if len(objects) + len(prefixes) == limit:
                    return ListPage(tuple(objects), tuple(prefixes), token=last)
                last = key
                if found is None:
                    prefixes.append(key)
                else:
                    objects.append(self._meta(found))
        return ListPage(tuple(objects), tuple(prefixes))

    def _name(self, key: str) -> str:
        return f"{self._label}/{key}"

    def _options(self, key: str, start: int, end: int | None, if_match: str | None) -> GetOptions:
        options: GetOptions = {}
        if end is not None:
            if end <= start:
                raise BadRequest(f"the range {start}-{end} of {self._name(key)} is empty")
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        if if_match is not None:
            if not if_match.startswith(self._etag_prefix):
                raise PreconditionFailed(f"{self._name(key)} is not {if_match} any more")
            options["if_match"] = f'"{if_match.removeprefix(self._etag_prefix)}"'
        return options

    def _check_version(self, meta: ObjectMeta, if_match: str | None) -> None:
        """Not every server that speaks a cloud's protocol knows If-Match."""
        if if_match not in {None, meta.etag}:
            raise PreconditionFailed(f"{self._name(meta.key)} has the etag {meta.etag} now, not {if_match}")

    async def _describe(self, key: str) -> ObjectMeta:
        """HEAD with the content type, which obstore's `head` leaves out."""
        result = await obstore.get_async(self._calls, key, options={"head": True})
        return self._meta(result.meta, result.attributes.get("Content-Type"))

    def _meta(self, found: Described, content_type: str | None = None) -> ObjectMeta:
        etag = found["e_tag"] or ""
        weak = etag.startswith("W/") or not etag
        opaque = etag.removeprefix("W/").strip('"') or f"{found['size']:x}-{found['last_modified'].timestamp():.0f}"
        return ObjectMeta(
            key=found["path"],
            size=found["size"],
            etag=self._etag_prefix + opaque,
            weak=weak,
            last_modified=found["last_modified"],
            content_type=content_type,
        )

    async def _chunks(self, result: GetResult, key: str, expected: int) -> AsyncIterator[bytes]:
        """The body, whole or not at all.

        The last chunk waits until the end was seen: a store that sends more than it announced sent something else
        (the whole object in answer to a range), and what came of it so far can't be continued by another try.
        """
        received, held = 0, b""
        with translating(self._name(key)):
            try:
                async for chunk in result.stream(CHUNK):
                    received += len(chunk)
                    if received > expected:
                        break
                    if held:
                        yield held
                    held = bytes(chunk)
            except Exception:
                if held:
                    yield held  # a broken connection takes nothing back
                raise
        if received > expected:
            raise UpstreamError(f"{self._name(key)}: more came than the {expected} announced bytes", hint=CHANGED)
        if held:
            yield held
        if received < expected:
            message = f"{self._name(key)}: {received} bytes came where {expected} were announced"
            raise UpstreamCorrupt(message, hint=CHANGED)


def _starts_too_far(error: BaseError) -> bool:
    return any(sign in str(error) for sign in ("status: 416", "StartTooLarge", "bytes 0--1/0"))


async def _take(chunks: AsyncIterator[bytes], size: int) -> tuple[list[bytes], bool]:
    """At least `size` bytes from the front, and whether that was all."""
    taken, count = [], 0
    async for chunk in chunks:
        taken.append(chunk)
        count += len(chunk)
        if count >= size:
            return taken, False
    return taken, True


async def _chain(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    head.reverse()
    while head:
        yield head.pop()
    async for chunk in rest:
        yield chunk
