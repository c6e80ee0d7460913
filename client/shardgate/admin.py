"""Requests about transforms and the cache. Answers are the gateway's JSON, as plain dicts and lists."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from shardgate.urls import Bucket
from shardgate.wire import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate.transport import Transport


class TransformsApi:
    """`client.transforms`. An id may be a transform's id or its name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, package: bytes, **options: str) -> dict[str, Any]:
        """Store a package; the same one twice is a no-op. Its name then means this one.

        Raises:
            BadRequest: The gateway can't use it, and why.
        """
        query = f"?{urlencode(options)}" if options else ""
        record: dict[str, Any] = self._transport.json("POST", f"{paths.TRANSFORMS}{query}", body=package)
        return record

    def start(self, transform_id: str) -> Any:
        """Start its workers and wait until they are ready.

        Raises:
            TransformFailed: They can't start; the message holds what Python said there.
        """
        return self._transport.json("POST", f"{_path(transform_id)}/start", patient=True)

    def stop(self, transform_id: str) -> Any:
        """Stop its workers until `start`. Requests for its results fail meanwhile."""
        return self._transport.json("POST", f"{_path(transform_id)}/stop", patient=True)

    def list(self) -> list[dict[str, Any]]:
        """All transforms, the newest first, without the sources of their functions; `show` has these."""
        records: list[dict[str, Any]] = []
        target = paths.TRANSFORMS
        while target:
            body, headers = self._transport.answer("GET", target)
            records += json.loads(body)
            target = _next_page(headers.get("Link", ""))
        return records

    def show(self, transform_id: str) -> dict[str, Any]:
        record: dict[str, Any] = self._transport.json("GET", _path(transform_id))
        return record

    def delete(self, transform_id: str) -> None:
        self._transport.read("DELETE", _path(transform_id))

    def logs(self, transform_id: str, *, tail: int = 200) -> str:
        """The last lines that its workers wrote."""
        return self._transport.read("GET", f"{_path(transform_id)}/logs?tail={tail}").decode(errors="replace")

    def follow(self, transform_id: str, *, tail: int = 200) -> Iterator[str]:
        """The last lines that its workers wrote, and what they write from now on, as it comes."""
        target = f"{_path(transform_id)}/logs?tail={tail}&follow=true"
        with self._transport.request("GET", target, patient=True) as response:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for part in response.stream():
                yield decoder.decode(part)

    def stats(self, transform_id: str) -> dict[str, Any]:
        """Samples, bytes and seconds by phase, summed over all requests."""
        stats: dict[str, Any] = self._transport.json("GET", f"{_path(transform_id)}/stats")
        return stats

    def package(self, transform_id: str) -> bytes:
        """The package as it was registered."""
        return self._transport.read("GET", f"{_path(transform_id)}/package")


class CacheApi:
    """`client.cache`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def stat(self) -> dict[str, Any]:
        """Bytes, entries, hits and misses of the gateway's cache."""
        stat: dict[str, Any] = self._transport.json("GET", paths.CACHE)
        return stat

    def prefetch(
        self, bucket: str | Bucket, object_name: str = "", *, prefix: str = "", provider: str | None = None
    ) -> Any:
        """Fetch an object, or all whose name starts with `prefix`, and wait until they are in the cache."""
        return self._post("prefetch", bucket, object_name, prefix, provider)

    def evict(
        self, bucket: str | Bucket, object_name: str = "", *, prefix: str = "", provider: str | None = None
    ) -> Any:
        """Drop an object, or all whose name starts with `prefix`, from the cache; the store keeps them."""
        return self._post("evict", bucket, object_name, prefix, provider)

    def _post(self, action: str, bucket: str | Bucket, object_name: str, prefix: str, provider: str | None) -> Any:
        parsed = Bucket.parse(bucket, provider)
        what = {"object": object_name} if object_name else {"prefix": prefix}
        query = urlencode({"bucket": parsed.name, "provider": parsed.provider, **what})
        return self._transport.json("POST", f"{paths.CACHE}/{action}?{query}", patient=True)


def _next_page(link: str) -> str:
    """The target that the header Link of one page has for the next, "" for the last one."""
    target, _, relation = link.partition(">")
    return target.removeprefix("<") if 'rel="next"' in relation and target.startswith("</") else ""


def _path(transform_id: str) -> str:
    return paths.transform_path(transform_id)
